"""Speed rows as CSV, as records and in words."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from mmbackbones.analysis.speed import scan as scan_benchmark
from mmbackbones.analysis.speed.networks import by_arm, growth
from mmbackbones.analysis.speed.worker import DTYPES, Case, Row
from mmbackbones.engine.config import config_hash, load_config
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.outputs import task_of

COLUMNS = (
    'config',
    'part',
    'step',
    'size',
    'batch',
    'tokens',
    'backend',
    'attention',
    'precision',
    'channels_last',
    'median_ms',
    'min_ms',
    'max_ms',
    'images_per_s',
    'times_first',
    'scan_share',
    'peak_mb',
    'process_peak_mb',
    'peak_bytes_per_token',
    'note',
)


def numbers(row: Row) -> dict[str, object]:
    """The :data:`COLUMNS` of a row; None where nothing was measured."""
    case, seconds = row.case, row.seconds
    tokens = row.tokens and row.tokens * case.batch
    return dict(
        config=Path(case.config).stem,
        part=case.part,
        step=case.step,
        size=case.size,
        batch=case.batch,
        tokens=row.tokens,
        backend=case.backend,
        attention=case.attention,
        precision=case.precision,
        channels_last=case.channels_last,
        median_ms=1e3 * row.median if seconds else None,
        min_ms=1e3 * min(seconds) if seconds else None,
        max_ms=1e3 * max(seconds) if seconds else None,
        images_per_s=case.batch / row.median if seconds else None,
        times_first=row.ratio,
        scan_share=row.scan_share,
        peak_mb=row.peak and row.peak / 1e6,
        process_peak_mb=row.process_peak and row.process_peak / 1e6,
        peak_bytes_per_token=row.peak / tokens if row.peak and tokens else None,
        note=row.note,
    )


def conditions(case: Case) -> dict[str, str]:
    """What every line of the CSV says about where it was measured."""
    torch.set_num_threads(case.threads)
    about = scan_benchmark.environment(case.device, DTYPES[case.precision] or torch.float32)
    del about['dtype']
    return dict(about, commit=environment()['commit'] or 'unknown')


def write_csv(rows: Sequence[Row], path: str | Path, about: dict[str, str]) -> None:
    """One line per row, with the conditions on each."""
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*COLUMNS, *about])
        for row in rows:
            writer.writerow([*(_text(value) for value in numbers(row).values()), *about.values()])


def _text(value: object) -> object:
    return f'{value:.4g}' if isinstance(value, float) else '' if value is None else value


def record_of(row: Row, about: dict[str, str]) -> dict:
    """A record of kind ``'speed'`` (see :mod:`mmbackbones.evaluation.records`)."""
    cfg = load_config(row.case.config)
    values = numbers(row)
    settings = {
        key: values.pop(key)
        for key in (
            'config',
            'part',
            'step',
            'size',
            'batch',
            'backend',
            'attention',
            'precision',
            'channels_last',
            'note',
        )
    }
    return dict(
        environment(),
        kind='speed',
        task=task_of(cfg),
        config=Path(row.case.config).name,
        config_hash=config_hash(cfg),
        recipe=cfg.get('recipe'),
        data_fingerprint=None,
        seed=0,
        scan_backend=settings.pop('backend'),
        metrics=values,
        device=about['device'],
        clock=about['clock'],
        threads=row.case.threads,
        rounds=len(row.seconds),
        **{k: v for k, v in settings.items() if k != 'config'},
    )


def growth_sentences(rows: Sequence[Row]) -> list[str]:
    """The exponents of each arm with three sizes and more."""
    sentences = []
    for case, group in by_arm(rows).items():
        for cost, word in (('median', 'time'), ('peak', 'memory')):
            fit = growth(group, cost)
            if fit:
                kind = ', '.join(filter(None, (case.part, case.step, case.backend, case.attention)))
                sentences.append(
                    f'{Path(case.config).stem} ({kind}): {word} ~ tokens ** {fit.exponent:.2f} '
                    f'(standard error {fit.error:.2f})'
                )
    return sentences
