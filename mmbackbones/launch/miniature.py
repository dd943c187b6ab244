"""Test whether every backbone learns: train and test each miniature of the zoo on both tasks of generated shapes.

A run is ``python -m mmbackbones train`` in its own process, as a user calls it. The untrained model is the same command
with no iterations. Scores are those of the last checkpoint, from the record that the command writes.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from mmbackbones.analysis.tables import write_csv
from mmbackbones.engine.process import run_logged
from mmbackbones.errors import InputError
from mmbackbones.launch.choices import RUNS, TASKS
from mmbackbones.zoo.models import backbone_config

# The score that decides in each task, all in 0..1: what training must reach and what an untrained model stays below.
SCORES = {'detection': 'box_AP50', 'segmentation': 'mIoU'}
FLOORS = {'detection': 0.50, 'segmentation': 0.50}
UNTRAINED = {'detection': 0.05, 'segmentation': 0.35}
COLUMNS = (
    'backbone',
    'task',
    'config',
    'iterations',
    'box_AP50',
    'box_AP',
    'mask_AP',
    'mIoU',
    'untrained',
    'learned',
    'date',
    'device',
    'torch',
    'python',
    'seed',
    'config_hash',
    'commit',
)


def run(name: str, work_dir: Path, data: Path, iterations: int | None = None) -> dict:
    """Train and test one miniature in one task.

    Args:
        name: one of ``RUNS``.
        work_dir: folder for the logs. ``train.log`` there has the output of the command.
        data: folder that ``tools/make_shapes.py`` made.
        iterations: replaces the number in the config.

    Returns:
        dict: the record of the test, see :mod:`mmbackbones.evaluation.outputs`.

    Raises:
        InputError: the command failed.
    """
    if name not in RUNS:
        raise InputError(f'{name}: no such miniature training; known: {", ".join(RUNS)}')
    task, backbone = RUNS[name]
    root = f'{data.absolute()}/{"coco" if task == "detection" else "ade20k"}/'
    options = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'test')]
    if task == 'detection':
        options.append(f'test_evaluator.ann_file={root}annotations/instances_val2017.json')
    if iterations is not None:
        options.append(f'train_cfg.max_iters={iterations}')
    arguments = [TASKS[task], '--backbone', backbone, '--work-dir', str(work_dir.absolute()), '--cfg-options', *options]
    run_logged('train', arguments, work_dir / 'train.log', name)
    return json.loads((work_dir / 'final' / 'run.json').read_text())


def score(record: dict) -> float:
    """Box AP50 or mIoU of a record, in 0..1."""
    metrics = record['metrics']
    return metrics['coco/bbox_mAP_50'] if record['task'] == 'detection' else metrics['mIoU'] / 100


def train_miniature(name: str, work_dir: Path, data: Path) -> dict[str, str]:
    """Score a miniature untrained and trained. The arguments are those of :func:`run`.

    Returns:
        dict[str, str]: a row of the table, by ``COLUMNS``; ``learned`` is ``yes`` or ``no``.
    """
    untrained = score(run(name, work_dir / 'untrained', data, iterations=0))
    record = run(name, work_dir / 'trained', data)
    task, metrics = record['task'], record['metrics']
    learned = score(record) >= FLOORS[task] and untrained < UNTRAINED[task]
    scores = {'box_AP50': 'coco/bbox_mAP_50', 'box_AP': 'coco/bbox_mAP', 'mask_AP': 'coco/segm_mAP', 'mIoU': 'mIoU'}
    return dict(
        backbone=backbone_config(RUNS[name][1], task)['type'].removeprefix('mmbackbones.'),
        task=task,
        config=name,
        iterations=str(record['iterations']),
        **{
            metric: _digits(metrics[key] / (100 if metric == 'mIoU' else 1)) if key in metrics else ''
            for metric, key in scores.items()
        },
        untrained=_digits(untrained),
        learned='yes' if learned else 'no',
        date=record['date'][:10],
        device=record['device'],
        torch=record['versions']['torch'],
        python=record['python'],
        seed=str(record['seed']),
        config_hash=record['config_hash'],
        commit=str(record['commit']),
    )


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Rows of an earlier table by config; empty if there is no file.

    Raises:
        InputError: the file has another table.
    """
    if not path.exists():
        return {}
    with path.open(newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f'--csv {path}: not a table of this command; expected the columns {", ".join(COLUMNS)}')
        return {row['config']: row for row in reader}


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write the table, ordered by backbone and task.

    Raises:
        InputError: the file cannot be written.
    """
    write_csv(path, COLUMNS, sorted(rows, key=lambda row: (row['backbone'], row['task'], row['config'])))


def _digits(value: float) -> str:
    return f'{value:.3f}'
