"""The models of the zoo, by name, and their settings under the common recipe.

``models.csv`` has one row for each published model:

=====================  ================================================================================================
``name``               as in ``--backbone NAME`` and ``zoo://NAME``; in the names of configs with hyphens
``class``, ``arch``    the registered backbone and its architecture
``family, variant``    the rows of the model in ``published/*.csv``; empty if there are none
``token_mixer``        what mixes the tokens, only where no published row says it
``weights``            address of the ImageNet weights; empty if no file is verified
``sha256``             64 hex digits that the file must have; empty if unknown
``weights_source``     who states the address, and what the file holds; or why there is none
``code_license``       licence of the authors' code
``weights_license``    licence stated for the weights; ``repository`` if they lie in the repository of the code, which
                       says nothing apart about them; ``none stated``; empty if unknown because there are none
``*_drop_path``        drop path rate of a task, and its source in ``*_source``
=====================  ================================================================================================

``options.csv`` has the other settings of a family under the common recipe, with reasons; ``*`` matches anything.
``classification.csv`` has those of a classifier, and how the authors test theirs (``test.size`` in pixels,
``test.crop`` as a fraction of the resized short side, ``test.interpolation``); the last matching line counts.
``miniatures.csv`` has networks that a CPU core trains in minutes from random weights. A dict in a cell is a Python
literal. The option ``arch.img_size`` sets the key ``img_size`` of ``arch``.
"""

import ast
import difflib
from fnmatch import fnmatchcase
from typing import Any

from mmbackbones.errors import InputError
from mmbackbones.zoo.rows import named_rows, read_rows

TASKS = ('detection', 'segmentation')
CLASSIFICATION = 'classification'
TEST = 'test.'  # before what is no option of a backbone


def model_names() -> list[str]:
    """Names of the published models, in the order of the table."""
    return list(named_rows('models.csv'))


def miniature_names() -> list[str]:
    """Names of the miniatures."""
    return list(named_rows('miniatures.csv'))


def model_row(name: str) -> dict[str, str]:
    """The row of a published model.

    Raises:
        InputError: no such model; the message names the nearest ones.
    """
    return _row(name, named_rows('models.csv'))


def license_of_weights(name: str) -> str:
    """Licence of a model's weights; of the repository where nothing apart is said; empty if unknown."""
    row = model_row(name)
    if row['weights_license'] == 'repository':
        return f'{row["code_license"]} (of the repository)'
    return row['weights_license']


def is_non_commercial(license: str) -> bool:
    """Whether a licence of the zoo forbids commercial use: its identifier has the part ``NC``."""
    return 'NC' in license.partition(' ')[0].split('-')


def drop_path(name: str, task: str) -> tuple[float, str]:
    """Drop path rate of a published model in a task, and its source."""
    row = model_row(name)
    if task == CLASSIFICATION:
        rate, reason = _as_classifier(name)['drop_path_rate']
        return float(rate), reason
    return float(row[f'{task}_drop_path']), row[f'{task}_source']


def options_of(name: str, task: str) -> dict[str, object]:
    """Arguments of a model in a task under the common recipe, except ``arch``, drop path and weights.

    Those of a classifier have its drop path rate.
    """
    if task == CLASSIFICATION:
        own = {option: value for option, (value, _) in _as_classifier(name).items() if not option.startswith(TEST)}
        return {**options_of(name, '*'), **own}
    if name in named_rows('miniatures.csv'):
        row = _row(name)
        return {**literal(row['options'] or '{}'), **literal(row.get(f'{task}_options') or '{}')}
    return {
        row['option']: literal(row['value'])
        for row in read_rows('options.csv')
        if fnmatchcase(name, row['models']) and fnmatchcase(task, row['task'])
    }


def published_test(name: str) -> dict[str, object]:
    """How the authors test their classifier: ``size`` (px), ``crop`` (fraction), ``interpolation``.

    timm states it for its own weights, ``classification.csv`` for the others.

    Raises:
        InputError: no such model; the message names the nearest ones.
    """
    from timm.models import get_pretrained_cfg  # takes seconds, and listing models needs none of it

    row = _row(name)
    own = _as_classifier(name).items()
    test = {key.removeprefix(TEST): value for key, (value, _) in own if key.startswith(TEST)}
    if row['class'] == 'TimmBackbone' and row['arch']:
        arch = literal_arch(row)
        cfg = get_pretrained_cfg(arch if isinstance(arch, str) else arch['name'])
        if cfg is not None:
            test |= dict(size=cfg.input_size[-1], crop=cfg.crop_pct, interpolation=cfg.interpolation)
    return test


def _as_classifier(name: str) -> dict[str, tuple[Any, str]]:
    rows = [row for row in read_rows('classification.csv') if fnmatchcase(name, row['models'])]
    return {row['option']: (literal(row['value']), row['reason']) for row in rows}


def backbone_config(name: str, task: str) -> dict[str, object]:
    """``model.backbone`` of a config: class, arch, options, drop path and weights.

    Args:
        name: a name of ``models.csv`` or ``miniatures.csv``, such as ``'vmamba_tiny_s1l8'``.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``, which starts from random weights.

    Raises:
        InputError: no such model; the message names the nearest ones.
    """
    kind, arch, options = arch_and_options(name, task)
    backbone = dict(type=f'mmbackbones.{kind}', arch=arch, **options)
    if task == CLASSIFICATION or name in named_rows('miniatures.csv'):
        return dict(backbone, init_cfg=None)
    rate, _ = drop_path(name, task)
    weights = dict(type='mmbackbones.Pretrained', checkpoint=f'zoo://{name}' if model_row(name)['weights'] else None)
    return dict(backbone, drop_path_rate=rate, init_cfg=weights)


def arch_and_options(name: str, task: str | None) -> tuple[str, str | dict, dict[str, object]]:
    """Class, architecture and options of a model in a task.

    Without a task these are the options that hold in every task, and ``out_indices``: the last block of a plain
    network.

    Raises:
        InputError: no such model; the message names the nearest ones.
    """
    row = _row(name)
    options = options_of(name, task or 'detection')
    if task is None:
        every = literal(row['options'] or '{}') if 'options' in row else options_of(name, '*')
        options = {key: value for key, value in options.items() if key in every or key == 'out_indices' or '.' in key}
    within = {key.removeprefix('arch.'): options.pop(key) for key in list(options) if key.startswith('arch.')}
    arch = literal_arch(row)
    return row['class'], {**arch, **within} if isinstance(arch, dict) else arch, options


def literal_arch(row: dict[str, str]) -> str | dict:
    """``arch`` of a row: a name, or a dict."""
    return literal(row['arch']) if row['arch'].startswith('{') else row['arch']


def _row(name: str, rows: dict[str, dict[str, str]] | None = None) -> dict[str, str]:
    rows = named_rows('models.csv') | named_rows('miniatures.csv') if rows is None else rows
    if name not in rows:
        near = difflib.get_close_matches(name.lower().replace('-', '_'), rows, n=3, cutoff=0.5)
        hint = f'nearest: {", ".join(near)}' if near else 'mmbackbones/zoo/models.csv lists them'
        raise InputError(f'{name}: no such backbone; {hint}')
    return rows[name]


def literal(text: str) -> Any:
    return ast.literal_eval(text)
