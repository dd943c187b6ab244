"""The token-count ladder: one checkpoint tested, or one config trained, at several input sizes.

Every size is a run of ``tools/test.py`` or ``tools/train.py`` in its own process, in a folder of its own; sizes that
are done are not run again, and one that fails does not stop the others.
"""

import argparse
import copy
import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config

from mmbackbones.analysis.compare.paired import plain_floats
from mmbackbones.engine.config import Overrides, config_hash, load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import draw_counts, interval
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.outputs import RECORD, task_of
from mmbackbones.evaluation.predictions import FinishedRun, Sample, annotation_file, load_run, tokens_of
from mmbackbones.evaluation.scores import IOU_TYPES, score

ROOT = Path(__file__).resolve().parents[3]
RESIZES = ('Resize', 'RandomResize')
FIXED = (
    'LoadImageFromFile',
    'LoadAnnotations',
    'RandomFlip',
    'RandomCrop',
    'PhotoMetricDistortion',
    'PackDetInputs',
    'PackSegInputs',
)
UNBOUND = 4  # long side in short sides, where a pipeline sets no bound


@dataclass
class Rung:
    """One metric at one size.

    Attributes:
        size (int): short side of the input in pixels.
        tokens (float): mean over the images, at 16 x 16 pixels per token; NaN where the pipeline hides it.
        metric (str): ``'box AP'``, ``'mask AP'`` or ``'mIoU'``.
        score, low, high (float): in percent, with the ends of the 95 % interval over images.
        difference, difference_low, difference_high (float): from the smallest size, on the same draws.
        images (int): that were resampled.
    """

    size: int
    tokens: float
    metric: str
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    images: int


def write_config(config: str, size: int, folder: Path, trained: bool, options: dict | None = None) -> Path:
    """Write a config of the same name that differs from ``config`` in its input size alone.

    Args:
        config: path of the config.
        size: short side in pixels; a training crops squares of it where the config crops.
        folder: where to write.
        trained: whether the training is of that size, too.
        options: overrides, as of ``--cfg-options``.

    Raises:
        InputError: a pipeline resizes in a way that is unknown here.
    """
    cfg = load_config(config, options)
    text = f'_base_ = {str(Path(config).absolute())!r}\n'
    for split in ('train', 'val', 'test') if trained else ('test',):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            steps = resized(_pipeline(loader, split), size, f'{split}_dataloader.dataset.pipeline')
            text += f'{split}_dataloader = dict(dataset=dict(pipeline={steps!r}))\n'
    if trained and cfg.model.get('data_preprocessor', {}).get('size'):
        text += f'model = dict(data_preprocessor=dict(size=({size}, {size})))\n'
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(config).name
    path.write_text(text)
    return path


def _pipeline(loader: Config, split: str) -> list[dict]:
    if 'pipeline' not in loader.dataset:
        raise InputError(f'{split}_dataloader.dataset: has no pipeline of its own to resize')
    return [step.to_dict() for step in loader.dataset.pipeline]


def resized(pipeline: Sequence[dict], size: int, name: str) -> list[dict]:
    """A pipeline whose images have a short side of ``size``; the bound on the long side keeps its ratio."""
    steps = copy.deepcopy(list(pipeline))
    unknown = [step['type'] for step in steps if step['type'] not in (*RESIZES, *FIXED)]
    if unknown or sum(step['type'] in RESIZES for step in steps) > 1:
        raise InputError(
            f'{name}: cannot be set to {size} px; expected at most one of {", ".join(RESIZES)} and '
            f'{", ".join(FIXED)}' + (f', not {unknown[0]}' if unknown else '')
        )
    if not any(step['type'] in RESIZES for step in steps):
        # Training labels are resized with their image; a segmentor is scored at the image's own size.
        training = any(step['type'] in ('RandomCrop', 'RandomFlip') for step in steps)
        steps.insert(2 if training else 1, dict(type='Resize', keep_ratio=True))
    for step in steps:
        if step['type'] in RESIZES:
            step.pop('scale_factor', None)
            bound = step.get('scale') or (UNBOUND, 1)
            step['scale'] = (round(max(bound) / min(bound) * size), size)
        elif step['type'] == 'RandomCrop':
            step['crop_size'] = (size, size)
    return steps


def run_size(config: str, checkpoint: str | None, size: int, folder: Path, options: Sequence[str] = ()) -> None:
    """Test ``checkpoint``, or train where there is none, at one size, unless that is done already.

    Raises:
        InputError: the command failed, or the folder holds another run.
    """
    given = parse_options(options)
    cfg_file = write_config(config, size, folder / 'configs' / str(size), checkpoint is None, given)
    out = folder / str(size)
    if (out / RECORD).is_file() or (out / 'final' / RECORD).is_file():
        done, wanted = load_run(out).record, dict(config_hash=config_hash(load_config(str(cfg_file), given)))
        wanted |= dict(checkpoint=Path(checkpoint).name) if checkpoint else {}
        if any(done.get(key) != value for key, value in wanted.items()):
            raise InputError(f'{out}: holds another run; choose another --out')
        return
    if checkpoint:
        command = [
            'tools/test.py',
            str(cfg_file),
            checkpoint,
            '--out',
            str(out),
            '--work-dir',
            str(folder / 'work' / str(size)),
        ]
    else:
        command = ['tools/train.py', str(cfg_file), '--resume', 'auto', '--work-dir', str(out)]
    command = [sys.executable, *command, *(['--cfg-options', *options] if options else [])]
    log_file = folder / f'{size}.log'
    with log_file.open('w') as log:
        status = subprocess.run(
            command, cwd=ROOT, env={'OMP_NUM_THREADS': '1', **os.environ}, stdout=log, stderr=subprocess.STDOUT
        ).returncode
    if status:
        errors = [line for line in log_file.read_text().splitlines() if line.startswith('error: ')]
        raise InputError(
            f'size {size}: ended with status {status}; the log is {log_file}' + (f' ({errors[-1]})' if errors else '')
        )


def parse_options(options: Sequence[str]) -> dict:
    """What the commands make of ``--cfg-options KEY=VALUE ...``."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Overrides)
    return parser.parse_args(['--cfg-options', *options]).cfg_options if options else {}


def measure(runs: dict[int, FinishedRun], resamples: int = 1000, seed: int = 0) -> list[Rung]:
    """Scores with intervals of runs at several sizes, by size.

    Raises:
        InputError: predictions are missing or damaged.
    """
    first = runs[min(runs)]
    annotations = annotation_file(first) if first.record['task'] == 'detection' else None
    sample = Sample(first, annotations)
    counts = draw_counts(len(sample.image_ids), resamples, seed)
    rungs, base = [], {}
    for size, run in sorted(runs.items()):
        tokens = tokens_of(run.record['settings'], sample.sizes)
        for (metric, *_), values in score(run, sample, counts, splits=(), metrics=tuple(IOU_TYPES)).items():
            gaps = values - base.setdefault(metric, values)
            rungs.append(
                Rung(
                    size,
                    float('nan') if tokens is None else float(tokens.mean()),
                    metric,
                    float(values[0]),
                    *interval(values[1:]),
                    float(gaps[0]),
                    *interval(gaps[1:]),
                    len(sample.image_ids),
                )
            )
    return rungs


def climb(
    config: str,
    checkpoint: str | None,
    sizes: Sequence[int],
    folder: Path,
    options: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[Rung], list[str]]:
    """FinishedRun all sizes and measure those that came to an end.

    Args:
        config: path of the config.
        checkpoint: what to test; None to train at each size.
        sizes: short sides in pixels.
        folder: for configs, logs and runs.
        options: ``KEY=VALUE`` overrides for every run.
        resamples, seed: of the bootstrap.

    Returns:
        The rungs, and one sentence for each size that failed.

    Raises:
        InputError: bad sizes or config, or no size came to an end.
    """
    if not sizes or min(sizes) < 32:
        raise InputError(f'--sizes {" ".join(map(str, sizes))}: expected short sides of 32 px and more')
    task_of(load_config(config, parse_options(options)))
    folder = folder.absolute()
    runs, faults = {}, []
    for size in sorted(set(sizes)):
        try:
            run_size(config, checkpoint and _absolute(checkpoint), size, folder, options)
            runs[size] = load_run(folder / str(size))
        except InputError as error:
            faults.append(str(error))
    if not runs:
        raise InputError('; '.join(faults))
    return measure(runs, resamples, seed), faults


def _absolute(checkpoint: str) -> str:
    return checkpoint if '://' in checkpoint else str(Path(checkpoint).absolute())


def write_csv(rungs: Sequence[Rung], path: Path) -> None:
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Rung)], lineterminator='\n')
        writer.writeheader()
        for rung in rungs:
            writer.writerow(
                {
                    key: f'{value:.4f}' if isinstance(value, float) else value
                    for key, value in dataclasses.asdict(rung).items()
                }
            )


def plot(rungs: Sequence[Rung], path: Path, title: str) -> None:
    """Score against tokens with intervals; the file's ending says the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.add_subplot()
    for metric in dict.fromkeys(rung.metric for rung in rungs):
        rows = [rung for rung in rungs if rung.metric == metric]
        x = [rung.size if np.isnan(rung.tokens) else rung.tokens for rung in rows]
        y = np.array([rung.score for rung in rows])
        spread = np.array([[rung.score - rung.low, rung.high - rung.score] for rung in rows]).T
        axes.errorbar(x, y, spread.clip(0), marker='o', capsize=3, label=metric)
    axes.set_xlabel('short side (px)' if np.isnan(rungs[0].tokens) else 'tokens per image (16 x 16 px)')
    axes.set_ylabel('score (%), 95 % interval over images')
    axes.set_title(title, fontsize='medium')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def to_record(rungs: Sequence[Rung], config: str, folder: Path, sizes: Sequence[int], seed: int) -> dict:
    """The record of a ladder, see :mod:`mmbackbones.evaluation.records`."""
    run = load_run(folder / str(min(rung.size for rung in rungs))).record
    shared = {key: run[key] for key in ('task', 'recipe', 'data_fingerprint', 'seed', 'precision', 'scan_backend')}
    return plain_floats(
        dict(
            kind='ladder',
            config=Path(config).name,
            config_hash=config_hash(load_config(config)),
            trained=run['kind'],
            sizes=sorted(sizes),
            bootstrap_seed=seed,
            checkpoint=run.get('checkpoint'),
            metrics={f'{rung.metric} at {rung.size} px': rung.score for rung in rungs},
            rungs=[dataclasses.asdict(rung) for rung in rungs],
            **shared,
            **environment(),
        )
    )
