"""MambaOut: the gated CNN block, which is the Mamba block without its state-space mixer.

Paper: "MambaOut: Do We Really Need Mamba for Vision?", CVPR 2025, https://arxiv.org/abs/2405.07992
Authors' code and weights: https://github.com/yuweihao/MambaOut (Apache-2.0).
Implementation: timm's (Apache-2.0), which loads the authors' weights to the bit. Nothing of the network is written
again here; this file adds the surface of a dense backbone. A LayerNorm follows each returned map, as the author states
for his detectors and segmentors (issue 251 of his repository); the classifier has none.
"""

import timm
from timm.models.mambaout import MambaOut as TimmMambaOut
from torch import Tensor, nn

from mmbackbones.backbones.base import Backbone, check_image, check_out_indices
from mmbackbones.checkpoints.adapters.mambaout import convert_mambaout
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS

ARCHS = tuple(name.removeprefix('mambaout_') for name in timm.list_models('mambaout_*'))
STRIDES = (4, 8, 16, 32)


@MODELS.register_module()
class MambaOut(Backbone):
    """MambaOut for detection and segmentation.

    Args:
        arch (str | dict): one of ``femto``, ``kobe``, ``tiny``, ``small``, ``base``, timm's own ``*_rw`` variants, or
            the keyword arguments of ``timm.models.mambaout.MambaOut`` (``depths``, ``dims``, …).
        out_indices (tuple[int, ...]): stages to return, ascending, 0 (stride 4) to 3 (stride 32). Stages past the last
            one are not built.
        drop_path_rate (float): stochastic depth, growing linearly from 0 over all blocks to this rate.
        frozen_stages (int): see :class:`Backbone`.
        with_cp (bool): recompute the blocks in the backward pass to save memory.
        norm_cfg (dict | None): norm on each returned map; None returns the raw maps.
        init_cfg (dict | list[dict] | None): see :class:`Backbone`.

    Raises:
        InputError: unknown ``arch`` or ``out_indices``, or an image below 4 px.
    """

    unused_keys = ('head.',)
    convert_state_dict = staticmethod(convert_mambaout)

    def __init__(
        self,
        *,
        arch: str | dict = 'tiny',
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_cfg: dict | None = dict(type='LN', eps=1e-6),  # noqa: B006  (read only)
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(frozen_stages=frozen_stages, init_cfg=init_cfg)
        net = _build_timm(arch, drop_path_rate)
        self.depths = tuple(len(stage.blocks) for stage in net.stages)
        self.out_indices = check_out_indices('MambaOut', out_indices, len(self.depths))
        built = self.out_indices[-1] + 1
        self.unused_keys = (*self.unused_keys, *(f'stages.{i}.' for i in range(built, len(self.depths))))

        self.stem = net.stem
        self.stages = net.stages[:built]
        for stage in self.stages:
            stage.grad_checkpointing = with_cp
        self.out_channels = tuple(net.feature_info[i]['num_chs'] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        self.add_out_norms(norm_cfg, self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W], any size from 4 px -> one map [B, C, ceil(H/s), ceil(W/s)] per out index."""
        check_image('MambaOut', x, smallest=STRIDES[0])
        x = self.stem(x)  # [B, 3, H, W] -> [B, H/4, W/4, C]
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(self.apply_out_norm(i, x))
        return tuple(outs)

    def freezable_modules(self) -> list[list[nn.Module]]:
        return [[self.stem], *([stage] for stage in self.stages)]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer 0 is the stem, then one layer per block; a stage's downsampling counts with its first block."""
        num_layers = sum(self.depths) + 2
        name = param_name.removeprefix(prefix)
        if name.startswith('stem.'):
            return 0, num_layers
        if not name.startswith('stages.'):
            return num_layers - 1, num_layers
        _, stage, part, *rest = name.split('.')
        block = int(rest[0]) if part == 'blocks' else 0
        return 1 + sum(self.depths[: int(stage)]) + block, num_layers


def _build_timm(arch: str | dict, drop_path_rate: float) -> TimmMambaOut:
    if isinstance(arch, dict):
        try:
            return TimmMambaOut(num_classes=0, drop_path_rate=drop_path_rate, **arch)
        except TypeError as error:
            raise InputError(f'MambaOut: arch={arch}: {error}') from error
    if arch not in ARCHS:
        raise InputError(f'MambaOut: unknown arch {arch!r}; known: {", ".join(ARCHS)}, or a dict')
    return timm.create_model(f'mambaout_{arch}', pretrained=False, num_classes=0, drop_path_rate=drop_path_rate)
