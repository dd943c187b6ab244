"""The command ``export``: the backbone of a config, with the weights of a checkpoint, as a file for other runtimes."""

import argparse
import json
from pathlib import Path

import torch

from mmbackbones.checkpoints.atomic import write_whole
from mmbackbones.engine.config import load_config, run_name
from mmbackbones.engine.pretrained import Pretrained
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import commit, installed
from mmbackbones.registry import MODELS
from mmbackbones.release.formats import export_backbone

WHOLE_MODELS = (
    'whole detectors and segmentors are exported by onedl-mmdeploy, which pip does not find for this Python; '
    'add --backbone-only for the backbone alone'
)
PACKAGES = ('mmbackbones', 'torch', 'onnx', 'onnxscript', 'onnxruntime')


def export_with(args: argparse.Namespace) -> None:
    """The command with the options of :func:`mmbackbones.release.command_line.export_parser`."""
    if not args.backbone_only:
        raise InputError(f'--backbone-only is missing: {WHOLE_MODELS}')
    path = Path(args.out)
    if path.exists():
        raise InputError(f'-o {path}: exists; nothing was overwritten')
    if min(args.size) < 1:
        raise InputError(f'--size {args.size[0]} {args.size[1]}: expected two positive numbers')
    cfg = load_config(args.config, args.cfg_options, args.backbone)
    with torch.random.fork_rng(devices=[]):
        backbone = MODELS.build({**cfg.model.backbone, 'init_cfg': None})
    Pretrained(args.checkpoint)(backbone)
    metadata = dict(
        config=run_name(args.config, args.backbone),
        backbone=json.dumps(cfg.model.backbone.to_dict(), default=str),
        checkpoint=Path(args.checkpoint).name,
        size='dynamic' if args.dynamic else f'{args.size[0]}x{args.size[1]}',
        **_normalization(cfg.model.get('data_preprocessor') or {}),
        versions=json.dumps(installed(PACKAGES)),
        commit=commit() or '',
    )
    data = export_backbone(backbone, args.format, tuple(args.size), args.dynamic, metadata)
    try:
        write_whole(path, data)
    except OSError as error:
        raise InputError(f'-o {path}: cannot be written: {error.strerror or error}') from error
    sizes = 'any size' if args.dynamic else f'{args.size[0]}x{args.size[1]}'
    print(f'{path}: {args.format}, {len(data):,} bytes, images of {sizes}; its maps are those of PyTorch to 1e-4')


def _normalization(preprocessor: dict) -> dict[str, str]:
    """What the image has been through before the backbone sees it: (x - mean) / std by channel."""
    return dict(
        mean=json.dumps(preprocessor.get('mean')),
        std=json.dumps(preprocessor.get('std')),
        # mmpretrain calls it to_rgb.
        channels='RGB' if preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb') else 'as read (BGR in OpenCV)',
    )
