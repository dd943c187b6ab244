"""Checks before a run starts: weights, data and number of classes."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from torch.utils.data import Dataset

from mmbackbones.datasets.check import check_config, share_annotation_files
from mmbackbones.errors import InputError


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


def require_class_count(cfg: Config, dataset: Dataset) -> None:
    """Refuse heads whose number of classes differs from the data set's. The frameworks train such heads silently.

    Raises:
        InputError: a head has another number of classes; the message names the first one.
    """
    classes = len(dataset.metainfo['classes'])
    model = cfg.model.get('module', cfg.model)
    heads = {f'model.{name}': model[name] for name in ('decode_head', 'auxiliary_head') if model.get(name)}
    if 'roi_head' in model:
        heads |= {f'model.roi_head.{name}': model.roi_head[name] for name in ('bbox_head', 'mask_head')}
    for key, head in heads.items():
        if isinstance(head, dict) and head.get('num_classes', classes) != classes:
            raise InputError(
                f'{key}.num_classes={head["num_classes"]}, but the data set has {classes} classes: '
                f'{", ".join(dataset.metainfo["classes"][:5])}{", …" if classes > 5 else ""}'
            )


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
