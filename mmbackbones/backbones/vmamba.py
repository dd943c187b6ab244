"""VMamba: four-direction selective scans in a hierarchical backbone.

Paper: "VMamba: Visual State Space Model", NeurIPS 2024, https://arxiv.org/abs/2401.10166
Authors' code and weights: https://github.com/MzeroMiko/VMamba (MIT). Written anew from the paper and from recorded
activations of that code; parameters carry its names.

``*_s<ratio>l<depth>`` are the second version (one state per channel, MLP, overlapping convolutions), named after the
inner width over the width and the depth of the third stage; ``*_v0`` is the first version (16 states, gate, no MLP,
4x4 patches). The authors' second version keeps maps channel-first and normalizes over axis 1; here all maps are
channels-last in memory, which changes no number.
"""

from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from mmbackbones.backbones.staged import StagedBackbone, arch_options
from mmbackbones.checkpoints.adapters.vmamba import convert_vmamba
from mmbackbones.layers.ss2d import SS2D
from mmbackbones.layers.stems import conv_downsample, conv_stem, patch_stem
from mmbackbones.registry import MODELS

V2 = dict(ssm_ratio=2.0, d_state=1, mlp_ratio=4.0, conv_bias=False, gate=False, patches=False)
V0 = dict(ssm_ratio=2.0, d_state=16, mlp_ratio=0.0, conv_bias=True, gate=True, patches=True)
ARCHS = {
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


class VSSBlock(nn.Module):
    """``x + SS2D(LN(x))``, then ``x + MLP(LN(x))`` if there is an MLP, on maps [B, H, W, C]."""

    def __init__(self, dim: int, drop_path: float, mlp_ratio: float, **ssm):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, **ssm)
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

    Args:
        arch (str | dict): one of ``tiny_s1l8``, ``tiny_s2l5``, ``small_s2l15``, ``small_s1l20``, ``base_s2l15``,
            ``base_s1l20``, ``tiny_v0``, ``small_v0``, ``base_v0``; or a dict of ``dims`` (four, or the first one),
            ``depths`` and, all with the second version's value as default, ``ssm_ratio`` (inner width over width),
            ``d_state``, ``mlp_ratio`` (0: no MLP), ``conv_bias``, ``gate``, ``patches`` (4x4 patches and 2x2 merging
            in place of 3x3 convolutions with stride 2).
        out_indices (tuple[int, ...]): stages to return, ascending, 0 (stride 4) to 3 (stride 32). Stages past the last
            one are not built.
        drop_path_rate (float): stochastic depth, growing linearly from 0 over all blocks to this rate.
        frozen_stages (int): see :class:`Backbone`.
        with_cp (bool): recompute the blocks in the backward pass to save memory.
        norm_cfg (dict | None): norm on each returned map, ``outnorm{i}``; None returns the raw maps.
        init_cfg (dict | list[dict] | None): see :class:`Backbone`.

    Raises:
        InputError: unknown ``arch``, arch key or ``out_indices``, or an image below 4 px.
    """

    convert_state_dict = staticmethod(convert_vmamba)

    def __init__(
        self,
        *,
        arch: str | dict = 'tiny_s1l8',
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_cfg: dict | None = dict(type='LN', eps=1e-5),  # noqa: B006  (read only)
        init_cfg: dict | list[dict] | None = None,
    ):
        options = arch_options('VMamba', arch, ARCHS, defaults=V2)
        dims, depths, patches = options.pop('dims'), options.pop('depths'), options.pop('patches')
        super().__init__(
            stem=patch_stem(dims[0]) if patches else conv_stem(dims[0]),
            block=lambda stage, index, dim, drop_path: VSSBlock(dim, drop_path, **options),
            downsample=PatchMerging if patches else conv_downsample,
            dims=dims,
            depths=depths,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg,
        )
