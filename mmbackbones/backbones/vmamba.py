"""VMamba: four-direction selective scans in a hierarchical backbone.

Paper: "VMamba: Visual State Space Model", NeurIPS 2024, https://arxiv.org/abs/2401.10166
Authors' code and weights: https://github.com/MzeroMiko/VMamba (MIT). Written anew from the paper and from recorded
activations of that code; parameters have its names.

``*_s<ratio>l<depth>`` are the second version (``d_state`` 1, MLP, overlapping convolutions). The name has the ratio of
``d_inner`` to the width, and the depth of the third stage. ``*_v0`` is the first version (``d_state`` 16, gate, no MLP,
4x4 patches). The authors' second version has channels-first maps and normalizes over axis 1. Here all maps are
channels-last in memory, which gives the same numbers.
"""

from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.vmamba import convert_vmamba
from mmbackbones.layers.ss2d import SS2D
from mmbackbones.layers.stems import conv_downsample, conv_stem, patch_stem
from mmbackbones.registry import MODELS

V2 = dict(ssm_ratio=2.0, d_state=1, mlp_ratio=4.0, conv_bias=False, gate=False, patches=False)
V0 = dict(ssm_ratio=2.0, d_state=16, mlp_ratio=0.0, conv_bias=True, gate=True, patches=True)


class VSSBlock(nn.Module):
    """``x + SS2D(LN(x))``, then ``x + MLP(LN(x))`` if there is an MLP, on maps [B, H, W, C]."""

    def __init__(self, dim: int, mixer: SS2D, drop_path: float, mlp_ratio: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = mixer
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim) if mlp_ratio else None
        self.mlp = Mlp(dim, int(mlp_ratio * dim)) if mlp_ratio else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        if self.mlp is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


@MODELS.register_module()
class VMamba(StagedBackbone):
    """VMamba for detection and segmentation.

    Keys of ``arch`` besides ``dims`` and ``depths``, with the second version's values as defaults: ``ssm_ratio``
    (``d_inner`` over width), ``d_state``, ``mlp_ratio`` (0: no MLP), ``conv_bias``, ``gate``, ``patches`` (4x4 patches
    and 2x2 merging in place of 3x3 convolutions with stride 2). The other arguments: see
    :class:`mmbackbones.backbones.base.Backbone`.
    """

    archs = {
        'tiny_s1l8': dict(dims=96, depths=(2, 2, 8, 2), ssm_ratio=1.0),
        'tiny_s2l5': dict(dims=96, depths=(2, 2, 5, 2), ssm_ratio=2.0),
        'small_s2l15': dict(dims=96, depths=(2, 2, 15, 2), ssm_ratio=2.0),
        'small_s1l20': dict(dims=96, depths=(2, 2, 20, 2), ssm_ratio=1.0),
        'base_s2l15': dict(dims=128, depths=(2, 2, 15, 2), ssm_ratio=2.0),
        'base_s1l20': dict(dims=128, depths=(2, 2, 20, 2), ssm_ratio=1.0),
        'tiny_v0': dict(dims=96, depths=(2, 2, 9, 2), **V0),
        'small_v0': dict(dims=96, depths=(2, 2, 27, 2), **V0),
        'base_v0': dict(dims=128, depths=(2, 2, 27, 2), **V0),
    }
    arch_defaults = V2
    default_arch = 'tiny_s1l8'
    convert_state_dict = staticmethod(convert_vmamba)

    def make_stem(self, dim: int) -> nn.Module:
        return patch_stem(dim) if self.arch.patches else conv_stem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> VSSBlock:
        mixer = SS2D(dim, **{key: getattr(self.arch, key) for key in ('ssm_ratio', 'd_state', 'conv_bias', 'gate')})
        return VSSBlock(dim, mixer, drop_path, self.arch.mlp_ratio)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return PatchMerging(dim, next_dim) if self.arch.patches else conv_downsample(dim, next_dim)
