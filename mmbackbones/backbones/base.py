"""What every backbone of the suite shares: its surface towards mmdet and mmseg, freezing, output norms, loading."""

from abc import ABCMeta
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit, initialize
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmbackbones.errors import InputError

PRETRAINED = 'mmbackbones.Pretrained'


def resolve_arch(family: str, arch: str | dict, table: dict[str, dict]) -> dict:
    """Look up a named architecture, or pass a dict through.

    Raises:
        InputError: ``arch`` is not in ``table``; the message lists the known names.
    """
    if isinstance(arch, dict):
        return dict(arch)
    if arch not in table:
        raise InputError(f'{family}: unknown arch {arch!r}; known: {", ".join(table)}, or a dict')
    return dict(table[arch])


def check_out_indices(family: str, out_indices: Sequence[int], count: int, what: str = 'stages') -> tuple[int, ...]:
    """Pass ascending indices below ``count`` through, as a tuple.

    Raises:
        InputError: they are empty, unordered, repeated or beyond what there is.
    """
    indices = tuple(out_indices)
    if not indices or indices != tuple(sorted(set(indices))) or indices[0] < 0 or indices[-1] >= count:
        raise InputError(f'{family}: out_indices={indices}, expected ascending {what} out of 0..{count - 1}')
    return indices


class _FrozenWhenBuilt(ABCMeta):
    """Freeze after the last constructor: DistributedDataParallel wraps a model before its weights are initialized."""

    def __call__(cls, *args, **kwargs):
        backbone = super().__call__(*args, **kwargs)
        backbone._freeze()
        return backbone


class Backbone(BaseModule, metaclass=_FrozenWhenBuilt):
    """Base class: NCHW image in, tuple of NCHW maps out.

    A subclass builds its layers, sets ``out_channels`` and ``out_strides`` (one entry per returned map) and implements
    ``forward``, ``freezable_modules``, ``get_layer_depth`` and, where it has parameters besides norms that must not
    decay, ``no_weight_decay``.

    Args:
        frozen_stages (int): -1 trains everything, 0 freezes the stem, n also the first n stages (blocks, in plain
            nets). Frozen modules stay in eval mode.
        init_cfg (dict | list[dict] | None): mmengine's initializers. Both ``Pretrained`` and
            ``mmbackbones.Pretrained`` mean the latter here, and run after everything else was initialized.

    Attributes:
        fresh_keys (tuple[str, ...]): key prefixes that a checkpoint may lack (they keep their initialization).
        unused_keys (tuple[str, ...]): key prefixes that a converted checkpoint may hold in excess.
    """

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    fresh_keys: tuple[str, ...] = ('outnorm',)
    unused_keys: tuple[str, ...] = ()

    def __init__(self, *, frozen_stages: int = -1, init_cfg: dict | list[dict] | None = None):
        super().__init__(init_cfg)
        self.frozen_stages = frozen_stages

    @staticmethod
    def convert_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published classifier to this backbone's, which pass through; overridden by families."""
        return state_dict

    def freezable_modules(self) -> list[list[nn.Module]]:
        """The stem's modules first, then those of each stage, in forward order."""
        raise NotImplementedError

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay, as in mmpretrain.

        Args:
            param_name (str): name in the whole model.
            prefix (str): what precedes the backbone's own names, ``'backbone.'`` in a detector.

        Returns:
            tuple[int, int]: layer index (0 is the stem) and number of layers.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names, within the backbone, of parameters besides norms that weight decay must not touch."""
        return set()

    def add_out_norms(self, norm_cfg: dict | None, out_indices: Iterable[int]) -> None:
        """Register ``outnorm{i}`` for each returned map (``None``: no norm)."""
        for index, channels in zip(out_indices, self.out_channels):
            norm = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, channels)[1]
            self.add_module(f'outnorm{index}', norm)

    def apply_out_norm(self, index: int, x: Tensor) -> Tensor:
        """Normalize a channels-last map and hand it over as the neck expects it.

        Args:
            index (int): the stage or block whose norm applies.
            x (Tensor): map [B, H, W, C].

        Returns:
            Tensor: contiguous map [B, C, H, W].
        """
        norm = getattr(self, f'outnorm{index}')
        last = isinstance(norm, nn.LayerNorm | nn.Identity)
        x = norm(x).permute(0, 3, 1, 2) if last else norm(x.permute(0, 3, 1, 2))  # [B, H, W, C] -> [B, C, H, W]
        return x.contiguous()

    def init_weights(self) -> None:
        """Run all initializers, the pretrained weights last.

        mmengine puts off only the type named exactly ``Pretrained`` until the children are initialized.
        """
        init_cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or ())
        pretrained = [cfg for cfg in init_cfgs if cfg['type'] in ('Pretrained', PretrainedInit, PRETRAINED)]
        declared, self.init_cfg = self.init_cfg, [cfg for cfg in init_cfgs if cfg not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = declared
        for cfg in pretrained:
            initialize(self, {**cfg, 'type': PRETRAINED})
        self._freeze()

    def _freeze(self) -> None:
        groups = self.freezable_modules() if self.frozen_stages >= 0 else []
        if self.frozen_stages >= max(len(groups), 1):
            raise InputError(
                f'{type(self).__name__}: frozen_stages={self.frozen_stages}, but there are {len(groups) - 1} stages'
            )
        for module in (module for group in groups[: self.frozen_stages + 1] for module in group):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> 'Backbone':
        super().train(mode)
        if mode:
            self._freeze()
        return self


def check_image(name: str, x: Tensor, smallest: int) -> None:
    """Refuse an image batch that the stem cannot take, in one line.

    Raises:
        InputError: not a [B, 3, H, W] float batch, or a side below ``smallest`` pixels.
    """
    if x.dim() != 4 or not torch.is_floating_point(x):
        raise InputError(f'{name}: expected a float image batch [B, C, H, W], got {x.dtype} {list(x.shape)}')
    if min(x.shape[-2:]) < smallest:
        raise InputError(f'{name}: image {x.shape[-2]}x{x.shape[-1]} is smaller than the stem, {smallest} px')


def recompute(block: nn.Module, *args) -> Tensor | tuple[Tensor, ...]:
    """Run a block, and once more in the backward pass instead of keeping what it computed on the way."""
    return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _still_statistics(block)))


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """The second computation of a block must not move the running statistics of its batch norms once more."""
    norms = {module: module.momentum for module in block.modules() if isinstance(module, nn.BatchNorm2d)}
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in norms.items():
            module.momentum = momentum
