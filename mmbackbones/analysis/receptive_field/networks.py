"""Backbones and images to measure: what ``tools/analysis/receptive_field.py`` is given on its command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from torch import Tensor, nn

from mmbackbones.checkpoints.layout import find_weights
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.datasets.check.files import inspect_image
from mmbackbones.engine.config import load_config, run_name
from mmbackbones.engine.initial_weights import drop_pretrained
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS

WEIGHTS = ('.pth', '.pt', '.ckpt', '.bin', '.tar', '.safetensors')
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB, 0 to 255


class Network(NamedTuple):
    """A backbone, its name, where its weights are from, and how its images are normalized (RGB, 0 to 255)."""

    name: str
    backbone: nn.Module
    weights: str
    mean: Sequence[float]
    std: Sequence[float]


def pairs(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Configs, each with its checkpoint if one follows it: ``CONFIG [CHECKPOINT] CONFIG [CHECKPOINT] …``.

    Raises:
        InputError: a checkpoint does not follow a config.
    """
    found: list[tuple[str, str | None]] = []
    for argument in arguments:
        address = argument.partition('#sha256=')[0]
        if not address.endswith(WEIGHTS) and '://' not in address:
            found.append((argument, None))
        elif found and found[-1][1] is None:
            found[-1] = (found[-1][0], argument)
        else:
            raise InputError(f'{argument}: a checkpoint; expected its config before it')
    return found


def build(
    config: str, checkpoint: str | None, overrides: dict | None = None, backbone: str | None = None, seed: int = 0
) -> Network:
    """Build the backbone of a config.

    Args:
        config: see :func:`mmbackbones.engine.config.load_config`, also for ``overrides`` and ``backbone``.
        checkpoint: address of weights of the backbone, or of a detector or segmentor with it. None: the config's own,
            ``model.backbone.init_cfg``; random ones if that is None or names no file.
        seed: of random weights.

    Raises:
        InputError: the config cannot be used, or the weights do not fit.
    """
    cfg = load_config(config, overrides, backbone)
    if checkpoint is not None or not _own_weights(cfg.model.backbone):
        drop_pretrained(cfg)
    torch.manual_seed(seed)
    net = MODELS.build(cfg.model.backbone)
    net.init_weights()
    source = _own_weights(cfg.model.backbone) or 'random weights'
    if checkpoint is not None:
        weights, notes = find_weights(load_checkpoint(checkpoint).content, checkpoint)
        load_weights(
            net,
            weights,
            name=checkpoint,
            notes=notes,
            allowed_missing=tuple(getattr(net, 'allowed_missing', ())),
            allowed_unexpected=tuple(getattr(net, 'allowed_unexpected', ())),
        )
        source = checkpoint
    processor = cfg.model.get('data_preprocessor') or {}
    mean, std = processor.get('mean') or MEAN, processor.get('std') or STD
    return Network(run_name(config, backbone), net, source, mean, std)


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise as a normalized image, [count, 3, H, W] float32, each value from the standard normal distribution."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def read_images(files: Sequence[str | Path], size: tuple[int, int]) -> np.ndarray:
    """Images scaled to one size, [N, H, W, 3] uint8 RGB.

    Raises:
        InputError: one cannot be read.
    """
    found = []
    for file in files:
        if fault := inspect_image(str(file), decode=True).fault:
            raise InputError(f'{file}: {fault}')
        image = mmcv.imread(str(file), channel_order='rgb')
        found.append(mmcv.imresize(image, size[::-1], interpolation='area'))
    return np.stack(found)


def normalize(images: np.ndarray, network: Network) -> Tensor:
    """[N, H, W, 3] uint8 RGB -> [N, 3, H, W] float32, as the network's detector or segmentor normalizes them."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(tuple(three)).view(3, 1, 1) for three in (network.mean, network.std))
    return (values - mean) / std


def _own_weights(backbone: dict) -> str | None:
    """Address of the weights that the config names."""
    init = backbone.get('init_cfg')
    entries = init if isinstance(init, list | tuple) else [init]
    return next((str(entry['checkpoint']) for entry in entries if entry and entry.get('checkpoint')), None)
