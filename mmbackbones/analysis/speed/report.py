"""Speed rows as CSV, as records and as sentences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from mmbackbones.analysis.records import config_record
from mmbackbones.analysis.speed.methods import conditions
from mmbackbones.analysis.speed.networks import by_arm, growth
from mmbackbones.analysis.speed.worker import NetworkCase, NetworkTiming
from mmbackbones.analysis.tables import rich_table, write_csv
from mmbackbones.engine.config import load_config

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


def numbers(row: NetworkTiming) -> dict[str, object]:
    """The :data:`COLUMNS` of a row; None if not measured."""
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


def conditions_of(case: NetworkCase) -> dict[str, str]:
    """The columns of every line of the CSV that describe machine and software."""
    torch.set_num_threads(case.threads)
    about = conditions(case.device, torch.float32)
    del about['dtype']  # the column ``precision`` tells
    return about


def write_timings(path: str | Path, timings: Sequence[NetworkTiming], about: dict[str, str]) -> None:
    """One line per timing by :data:`COLUMNS`, with the conditions on each.

    Raises:
        InputError: the file cannot be written.
    """
    write_csv(path, COLUMNS, map(numbers, timings), '.4g', about)


# What of them is a setting and no measurement.
SETTINGS = (
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
SHOWN = {
    'size': 'size',
    'tokens': 'tokens',
    'backend': 'scan',
    'attention': 'attention',
    'median_ms': 'median ms',
    'images_per_s': 'images/s',
    'times_first': 'x first',
    'scan_share': 'of it scan',
    'peak_mb': 'peak MB',
    'process_peak_mb': 'process MB',
    'peak_bytes_per_token': 'bytes/token',
    'note': 'note',
}


def table_of(timings: Sequence[NetworkTiming], title: str) -> Table:
    """The :data:`SHOWN` columns for the terminal; floats have three digits and more."""
    rows = []
    for timing in timings:
        values = numbers(timing)
        shown = [values[name] for name in SHOWN]
        rows.append(
            [
                values['config'].split('_8xb')[0],
                *(f'{x:.0f}' if isinstance(x, float) and abs(x) >= 100 else x for x in shown),
            ]
        )
    return rich_table(['config', *SHOWN.values()], rows, '.3g', title=title)


def record_of(row: NetworkTiming, about: dict[str, str]) -> dict:
    """A record of kind ``'speed'`` (see :mod:`mmbackbones.evaluation.records`)."""
    values = numbers(row)
    settings = {key: values.pop(key) for key in SETTINGS}
    return config_record(
        'speed',
        load_config(row.case.config),
        row.case.config,
        values,
        seed=0,
        scan_backend=settings.pop('backend'),
        device=about['device'],
        clock=about['clock'],
        threads=row.case.threads,
        rounds=len(row.seconds),
        **{key: value for key, value in settings.items() if key != 'config'},
    )


def growth_sentences(rows: Sequence[NetworkTiming]) -> list[str]:
    """Sentences on the exponents of each arm with three or more sizes."""
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
