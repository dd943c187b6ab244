"""What is checked before a run starts: its weights, its data and the number of classes."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from torch.utils.data import Dataset

from mmbackbones.datasets.check import check_config, share_annotation_files
from mmbackbones.errors import InputError


def require_weights(cfg: Config) -> None:
    """Refuse to train from random weights by oversight.

    Raises:
        InputError: the backbone names no weights and does not say ``init_cfg=None`` either.
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
    """Refuse heads for another number of classes than the data set has; the frameworks train on in silence.

    Raises:
        InputError: it names the first such head.
    """
    classes = len(dataset.metainfo['classes'])
    model = cfg.model.get('module', cfg.model)
    heads = {f'model.{name}': model[name] for name in ('decode_head', 'auxiliary_head') if model.get(name)}
    if 'roi_head' in model:
        heads |= {f'model.roi_head.{name}': model.roi_head[name] for name in ('bbox_head', 'mask_head')}
    for key, head in heads.items():
        if isinstance(head, dict) and head.get('num_classes', classes) != classes:
            raise InputError(
                f'{key}.num_classes={head.num_classes}, but the data set has {classes} classes: '
                f'{", ".join(dataset.metainfo["classes"][:5])}{", …" if classes > 5 else ""}'
            )


def check_data(cfg: Config, splits: tuple[str, ...]) -> dict[str, str]:
    """Stop at faults of the data; with ``data_check='drop'`` let every process train without them.

    Args:
        cfg (Config): the configuration; its data check may change the annotation files of the training.
        splits (tuple[str, ...]): of its ``{split}_dataloader`` keys.

    Returns:
        dict[str, str]: the fingerprint of each split's data in the first process; nothing in others.

    Raises:
        InputError: see :func:`mmbackbones.datasets.check.check_config`.
    """
    found = {}
    if is_main_process():
        found = check_config(cfg, splits, json_file=Path(cfg.work_dir, 'data_check.json'), drop_dir=cfg.work_dir)
    share_annotation_files(cfg)
    return found
