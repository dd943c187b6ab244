"""The models of ``--backbone NAME``, and their settings under the common recipe.

``models.csv`` has the published models: class, arch, address of the weights (empty if no file is known), and the drop
path rate of each task with its source. ``options.csv`` has the other settings of a family under the common recipe, with
reasons; ``*`` matches anything. ``miniatures.csv`` has networks that a CPU core trains in minutes from random weights.
A dict in a cell is a Python literal. The option ``arch.img_size`` sets the key ``img_size`` of ``arch``.
"""

import ast
import csv
import difflib
import functools
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmbackbones.errors import InputError

FOLDER = Path(__file__).parent
TASKS = ('detection', 'segmentation')


def model_names() -> list[str]:
    """Names of the published models, in the order of the table."""
    return list(_table('models.csv'))


def miniature_names() -> list[str]:
    """Names of the miniatures."""
    return list(_table('miniatures.csv'))


def drop_path(name: str, task: str) -> tuple[float, str]:
    """Drop path rate of a published model in a task, and its source."""
    row = _row(name)
    return float(row[f'{task}_drop_path']), row[f'{task}_source']


def options_of(name: str, task: str) -> dict[str, object]:
    """Arguments of a model in a task under the common recipe, except ``arch``, drop path and weights."""
    if name in _table('miniatures.csv'):
        row = _row(name)
        return {**_literal(row['options'] or '{}'), **_literal(row[f'{task}_options'] or '{}')}
    return {
        row['option']: _literal(row['value'])
        for row in _read('options.csv')
        if fnmatchcase(name, row['models']) and fnmatchcase(task, row['task'])
    }


def backbone_config(name: str, task: str) -> dict[str, object]:
    """``model.backbone`` of a config: class, arch, options, drop path and weights.

    Args:
        name: a name of ``models.csv`` or ``miniatures.csv``, such as ``'vmamba_tiny_s1l8'``.
        task: ``'detection'`` or ``'segmentation'``.

    Raises:
        InputError: no such model; the message names the nearest ones.
    """
    row = _row(name)
    options = options_of(name, task)
    within = {key.removeprefix('arch.'): options.pop(key) for key in list(options) if key.startswith('arch.')}
    arch = _literal(row['arch']) | within if row['arch'].startswith('{') else row['arch']
    backbone = dict(type=f'mmbackbones.{row["class"]}', arch=arch, **options)
    if name in _table('miniatures.csv'):
        return dict(backbone, init_cfg=None)
    rate, _ = drop_path(name, task)
    weights = dict(type='mmbackbones.Pretrained', checkpoint=row['weights'] or None)
    return dict(backbone, drop_path_rate=rate, init_cfg=weights)


def _row(name: str) -> dict[str, str]:
    rows = _table('models.csv') | _table('miniatures.csv')
    if name not in rows:
        near = difflib.get_close_matches(name.lower().replace('-', '_'), rows, n=3, cutoff=0.5)
        hint = f'nearest: {", ".join(near)}' if near else 'mmbackbones/zoo/models.csv lists them'
        raise InputError(f'{name}: no such backbone; {hint}')
    return rows[name]


def _literal(text: str) -> Any:
    return ast.literal_eval(text)


@functools.cache
def _table(file: str) -> dict[str, dict[str, str]]:
    return {row['name']: row for row in _read(file)}


@functools.cache
def _read(file: str) -> list[dict[str, str]]:
    with (FOLDER / file).open(newline='', encoding='utf-8') as lines:
        return list(csv.DictReader(lines))
