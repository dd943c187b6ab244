"""Checks before a run starts: weights, data and number of classes."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from torch import nn
from torch.utils.data import Dataset

from mmbackbones.datasets.check import check_config, share_annotation_files
from mmbackbones.errors import InputError

# Names of the heads, at any depth of a model, that have one output per class of the data set.
CLASS_HEADS = (
    'bbox_head',
    'mask_head',
    'mask_iou_head',
    'point_head',
    'panoptic_head',
    'decode_head',
    'auxiliary_head',
)
OF_CLASSIFIERS = ('head', 'data_preprocessor')  # of a model of mmpretrain
OTHER_CLASSES = ('STDCHead',)  # learns boundaries beside the classes


def require_weights(cfg: Config) -> None:
    """Refuse to train from random weights unless the config asks for it.

    Raises:
        InputError: the backbone names no weights, and its ``init_cfg`` is not None.
    """
    backbone = cfg.model.backbone
    if 'init_cfg' in backbone and backbone.init_cfg is None:
        return
    init_cfgs = backbone.get('init_cfg') or []
    init_cfgs = init_cfgs if isinstance(init_cfgs, list) else [init_cfgs]
    if not any(init_cfg.get('checkpoint') for init_cfg in init_cfgs):
        raise InputError(
            f'no pretrained weights are known for {backbone.type} {backbone.get("arch", "")}: set '
            'model.backbone.init_cfg.checkpoint (and model.backbone.init_cfg.type=mmbackbones.Pretrained) to a file '
            'or URL, or model.backbone.init_cfg=None to train from random weights'
        )


def require_classes(split: str, dataset: Dataset) -> tuple[str, ...]:
    """The class names of a data set.

    Two classes may have one name where folders tell them apart: ImageNet has two cranes.

    Raises:
        InputError: it names none, or they are not a sequence of different names.
    """
    classes, key = dataset.metainfo.get('classes'), f'{split}_dataloader.dataset.metainfo.classes'
    if isinstance(classes, str):
        raise InputError(f'{key}={classes!r}: is text, expected a tuple of names; a tuple of one has a comma')
    if not classes:
        raise InputError(f"{key}: not set, so the data set has no classes; set metainfo=dict(classes=('name', ...))")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice and not _has_folders(dataset):
        raise InputError(f'{key}: class {twice[0]!r} is named {classes.count(twice[0])} times')
    return tuple(classes)


def _has_folders(dataset: Dataset) -> bool:
    return any(base.__module__.partition('.')[0] == 'mmpretrain' for base in type(dataset).__mro__)


def require_class_count(model: nn.Module, dataset: Dataset) -> None:
    """Refuse heads whose number of classes differs from the data set's. The frameworks train such heads silently.

    The built heads count, so a default number that the config does not state is judged, too.

    Args:
        model: a detector or segmentor, wrapped or not.
        dataset: the data set of the test.

    Raises:
        InputError: a head has another number of classes; the message names the first one.
    """
    classes = require_classes('test', dataset)
    if any(name.endswith('language_model') for name, _ in model.named_modules()):
        return  # heads that are told the classes as text count words
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        head = next((part for part in reversed(name.split('.')) if not part.isdecimal()), '')
        named = head in CLASS_HEADS or name.removeprefix('module.') in OF_CLASSIFIERS
        if not named or not isinstance(count, int) or type(module).__name__ in OTHER_CLASSES:
            continue
        if count != len(classes):
            key = f'model.{name.removeprefix("module.")}.num_classes'
            raise InputError(f'{key}={count}, but the data set has {_count(classes)}')


def require_same_classes(datasets: Mapping[str, Dataset]) -> None:
    """Refuse data sets that name different classes, or the same in another order: label 0 would mean two things.

    Args:
        datasets: data set of each split.

    Raises:
        InputError: two splits differ.
    """
    names = {split: require_classes(split, dataset) for split, dataset in datasets.items()}
    (first, expected), *others = names.items()
    for split, found in others:
        if found != expected:
            order = ' in another order' if sorted(found) == sorted(expected) else ''
            raise InputError(
                f'{split}_dataloader.dataset.metainfo.classes: the {split} data set has other classes than the {first} '
                f'data set{order}: {_count(found)}, against {_count(expected)}'
            )


def require_trained_classes(meta: object, dataset: Dataset, name: str) -> None:
    """Refuse to test weights whose classes have another order than the data set's, and warn of other names.

    Args:
        meta: ``meta`` of a checkpoint, which mmengine writes with the classes of the training's data set.
        dataset: the data set of the test.
        name: name of the checkpoint, for messages.

    Raises:
        InputError: the classes are the same in another order.
    """
    known = meta.get('dataset_meta') if isinstance(meta, dict) else None
    trained = known.get('classes') if isinstance(known, dict) else None
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not isinstance(trained, list | tuple) or not classes or tuple(trained) == tuple(classes):
        return
    found = f'{name}: was trained on {_count(trained)}, but the test data set has {_count(classes)}'
    if sorted(map(str, trained)) == sorted(map(str, classes)):
        raise InputError(f'{found}: the same in another order')
    print_log(f'{found}; label i of one is taken for label i of the other', logger='current', level=logging.WARNING)


def _count(classes: Sequence[str]) -> str:
    return f'{len(classes)} classes: {", ".join(classes[:5])}{", …" if len(classes) > 5 else ""}'


def check_data(cfg: Config, splits: tuple[str, ...]) -> dict[str, str]:
    """Check the data and stop if they have faults. With ``data_check='drop'`` every process trains without faulty
    items.

    Args:
        cfg (Config): the configuration. ``'drop'`` may replace its annotation files of the training.
        splits (tuple[str, ...]): names of the splits, as in its ``{split}_dataloader`` keys.

    Returns:
        dict[str, str]: the fingerprint of each split's data in the first process; empty in others.

    Raises:
        InputError: see :func:`mmbackbones.datasets.check.check_config`.
    """
    found = {}
    if is_main_process():
        found = check_config(cfg, splits, json_file=Path(cfg.work_dir, 'data_check.json'), drop_dir=cfg.work_dir)
    share_annotation_files(cfg)
    return found
