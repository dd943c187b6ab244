"""The top of the authors' classifiers: what stands between the last map of a network and its logits.

Both classifiers with the networks of the zoo use it: timm's interface (:mod:`.timm_models`) and mmpretrain's
(:mod:`.mmpretrain_models`). A test passes the recorded logits of every family through it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from timm.models.mambaout import MlpHead
from torch import Tensor, nn

from mmbackbones.backbones.timm_backbone import create_net
from mmbackbones.checkpoints.adapters.timm_models import timm_module
from mmbackbones.errors import InputError

LAYER_NORM = dict(type='LN', eps=1e-5)
BATCH_NORM = dict(type='BN', eps=1e-5)
RMS_NORM = dict(type='RMS', eps=1e-5)
RAVLT_WIDTH = 1024  # channels of the pooled map in every released model


class PublishedHead(NamedTuple):
    """The head of the authors' classifier, where it is a norm on the last map, its mean, and a linear layer.

    Attributes:
        linear (str): prefix of the linear layer's keys in a converted checkpoint.
        norm (str | None): prefix of the norm's keys; None if the map is normalized already.
        norm_cfg (dict | None): the norm.
        projection (str | None): prefix of a 1x1 convolution before the norm, which a SiLU follows.
    """

    linear: str
    norm: str | None = None
    norm_cfg: dict | None = None
    projection: str | None = None


HIERARCHICAL = PublishedHead('classifier.head', 'classifier.norm', LAYER_NORM)
TOKENS = PublishedHead('head', 'norm_f', RMS_NORM)  # of the class token, where there is one
HEADS = {
    'VMamba': HIERARCHICAL,
    'LocalVMamba': HIERARCHICAL,
    'EfficientVMamba': HIERARCHICAL,
    'SpatialMamba': HIERARCHICAL,
    'VSSD': HIERARCHICAL,
    'MILA': HIERARCHICAL,
    'MambaVision': PublishedHead('head', 'norm', BATCH_NORM),
    'HViTTT': PublishedHead('head', 'norm', BATCH_NORM),
    'RAVLT': PublishedHead('head', 'norm', BATCH_NORM, 'proj'),
    'TransNeXt': PublishedHead('head'),
    'PlainMamba': PublishedHead('head.fc', 'outnorm', dict(type='LN', eps=1e-6)),
    'Vim': TOKENS,
    'LocalVim': TOKENS,
    'Mamba': TOKENS,  # as Vim, whose control it is
}
UNPUBLISHED = PublishedHead('head', 'norm', LAYER_NORM)  # of networks without a published classifier
# Layout of the map that timm's norm and head read, by source module; of others it is NCHW.
TIMM_LAYOUTS = {'swin_transformer': 'NHWC', 'twins': 'NLC', 'deit': 'NLC', 'vision_transformer': 'NLC'}
TIMM_TOP = ('norm', 'norm_pre', 'fc_norm', 'global_pool', 'head_drop', 'head', 'fc')  # parts of timm's classifiers


class PooledTop(nn.Module):
    """Norm on the map, its mean, linear layer: a :class:`PublishedHead` as a module.

    Args:
        head (PublishedHead): its parts.
        channels (int): of the map.
        num_classes (int): outputs.
        width (int): channels behind the projection, if there is one.
    """

    def __init__(self, head: PublishedHead, channels: int, num_classes: int, width: int = RAVLT_WIDTH):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 1) if head.projection else None
        channels = width if head.projection else channels
        self.norm = build_norm(head.norm_cfg, channels)
        self.fc = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)
        self.sources = {f'{head.linear}.': 'fc.'}
        if head.norm:
            self.sources[head.norm if head.norm == 'outnorm' else f'{head.norm}.'] = 'norm.'
        if head.projection:
            self.sources[f'{head.projection}.'] = 'proj.'

    def pool(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> [B, C], or [B, width] behind a projection."""
        if self.proj is not None:
            return F.silu(self.norm(self.proj(x))).mean((2, 3))
        return self.norm(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> logits [B, num_classes]."""
        return self.fc(self.pool(x))


class MapNorm(nn.Module):
    """A norm over the channels of each pixel of a map [B, C, h, w]."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.inner = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # [B, C, h, w] -> [B, h, w, C] and back


class MambaOutTop(nn.Module):
    """Mean of the map, norm, hidden layer, norm, linear layer: timm's head of MambaOut."""

    sources = {'head.': 'mlp.'}

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.mlp = MlpHead(channels, num_classes, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def pool(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> [B, 4 C]."""
        return self.mlp(x.permute(0, 2, 3, 1), pre_logits=True)  # [B, C, h, w] -> [B, h, w, C]

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> logits [B, num_classes]."""
        return self.mlp(x.permute(0, 2, 3, 1))


class TimmTop(nn.Module):
    """What timm's classifier has behind its last map: its norm, pooling and linear layer.

    Args:
        arch (str | dict): as of :class:`mmbackbones.backbones.TimmBackbone`.
        num_classes (int): outputs.
    """

    sources = {'net.': 'net.'}

    def __init__(self, arch: str | Mapping[str, Any], num_classes: int):
        super().__init__()
        options = dict(name=arch) if isinstance(arch, str) else dict(arch)
        name = options.pop('name')
        self.layout = TIMM_LAYOUTS.get(timm_module(name).__name__.rpartition('.')[2], 'NCHW')
        net = create_net(name, dict(options, num_classes=num_classes))
        for part in [part for part, _ in net.named_children() if part not in TIMM_TOP]:
            delattr(net, part)
        for part in [part for part, _ in net.named_parameters(recurse=False)]:
            delattr(net, part)
        net.is_init = True  # timm has done so; mmengine would call what it finds under the name init_weights
        self.net = net

    def pool(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> [B, C]."""
        return self.net.forward_head(self._normed(x), pre_logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> logits [B, num_classes]."""
        return self.net.forward_head(self._normed(x))

    def _normed(self, x: Tensor) -> Tensor:
        if self.layout != 'NCHW':
            x = x.permute(0, 2, 3, 1)  # [B, C, h, w] -> [B, h, w, C]
        if self.layout == 'NLC':
            x = x.flatten(1, 2)
        return self.net.norm(x) if hasattr(self.net, 'norm') else x


def build_norm(cfg: dict | None, channels: int) -> nn.Module:
    """A norm of maps [B, C, h, w]; None: nothing."""
    if cfg is None:
        return nn.Identity()
    if cfg['type'] == 'RMS':
        return MapNorm(nn.RMSNorm(channels, eps=cfg['eps']))
    norm = build_norm_layer(cfg, channels)[1]
    return MapNorm(norm) if cfg['type'] == 'LN' else norm


def build_top(
    family: str, channels: int, num_classes: int, arch: str | Mapping[str, Any] | None = None, width: int = RAVLT_WIDTH
) -> nn.Module:
    """The top of a classifier, with random weights.

    Args:
        family (str): class of the backbone, such as ``'VMamba'``. One without a published classifier gets LayerNorm,
            mean and linear layer.
        channels (int): of the backbone's last map.
        num_classes (int): outputs.
        arch (str | dict, optional): of a :class:`mmbackbones.backbones.TimmBackbone`.
        width (int): of RAVLT's projection.

    Raises:
        InputError: a timm model without ``arch``.
    """
    if family == 'TimmBackbone':
        if arch is None:
            raise InputError('model.head.arch is not set; the head of a timm model needs it')
        return TimmTop(arch, num_classes)
    if family == 'MambaOut':
        return MambaOutTop(channels, num_classes)
    return PooledTop(HEADS.get(family, UNPUBLISHED), channels, num_classes, width)


def take_top(top: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """The top's weights among those of a classifier.

    Args:
        top (nn.Module): of :func:`build_top`.
        weights: the classifier's, converted by the family's ``convert_state_dict``.

    Returns:
        tuple: state dict of the top, and the keys of ``weights`` that it holds.
    """
    own = top.state_dict()
    found, used = {}, set()
    for key, value in weights.items():
        for theirs, ours in top.sources.items():
            if not key.startswith(theirs):
                continue
            tail = key.removeprefix(theirs)
            tail = tail.partition('.')[2] if theirs == 'outnorm' else tail  # the number of the last block
            target = f'{ours}{tail}' if f'{ours}{tail}' in own else f'{ours}inner.{tail}'
            if target in own:
                flat = value.dim() == 4 and own[target].dim() == 2  # a linear layer that was a 1x1 convolution
                found[target] = value.flatten(1) if flat else value
                used.add(key)
    return found, used
