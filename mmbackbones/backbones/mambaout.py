"""MambaOut: the gated CNN block, which is the Mamba block without its state-space mixer.

Paper: "MambaOut: Do We Really Need Mamba for Vision?", CVPR 2025, https://arxiv.org/abs/2405.07992
Authors' code and weights: https://github.com/yuweihao/MambaOut (Apache-2.0).
The implementation is timm's (Apache-2.0), which loads the authors' weights bit for bit. This file only adds the
interface of a dense backbone. A LayerNorm follows each returned map, as the author states for his detectors and
segmentors (issue 251 of his repository). The classifier has no such norms.
"""

from types import SimpleNamespace

import timm
from timm.models.mambaout import MambaOut as TimmMambaOut
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import STRIDES, Backbone, RunOptions
from mmbackbones.checkpoints.adapters.mambaout import convert_mambaout
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS


@MODELS.register_module()
class MambaOut(Backbone):
    """MambaOut for detection and segmentation.

    ``arch`` is one of ``femto``, ``kobe``, ``tiny``, ``small``, ``base``, timm's own ``*_rw`` variants, or a dict of
    the keyword arguments of ``timm.models.mambaout.MambaOut`` (``depths``, ``dims``, …). All arguments are those of
    :class:`Backbone`.
    """

    archs = {name.removeprefix('mambaout_'): dict(model_name=name) for name in timm.list_models('mambaout_*')}
    default_arch = 'tiny'
    default_out_indices = (0, 1, 2, 3)
    allowed_unexpected: tuple[str, ...] = ('head.',)
    convert_state_dict = staticmethod(convert_mambaout)

    def __init__(self, **run: Unpack[RunOptions]):
        super().__init__(**run)
        net = self._create()
        self.depths = tuple(len(stage.blocks) for stage in net.stages)
        self.check_out_indices(len(self.depths))
        built = self.out_indices[-1] + 1
        self.allowed_unexpected = (*self.allowed_unexpected, *(f'stages.{i}.' for i in range(built, len(self.depths))))

        self.stem = net.stem
        self.stages = net.stages[:built]
        for stage in self.stages:
            stage.grad_checkpointing = self.with_cp
        self.out_channels = tuple(net.feature_info[i]['num_chs'] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        self.add_out_norms()

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        return SimpleNamespace(**cls.look_up(arch))  # timm knows the keys

    def _create(self) -> TimmMambaOut:
        options = dict(vars(self.arch), num_classes=0, drop_path_rate=self.drop_path_rate)
        try:
            return timm.create_model(**options) if 'model_name' in options else TimmMambaOut(**options)
        except TypeError as error:
            raise InputError(f'{self.family}: arch={vars(self.arch)}: {error}') from error

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W], any size from 4 px -> one map [B, C, ceil(H/s), ceil(W/s)] per out index."""
        self.check_image(x, smallest=STRIDES[0])
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
