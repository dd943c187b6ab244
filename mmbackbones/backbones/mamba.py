"""Mamba: the original, causal block on image patches in raster order. The control for directionality.

Block: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", https://arxiv.org/abs/2312.00752, authors'
code https://github.com/state-spaces/mamba (Apache-2.0). As a vision backbone it is the setting "None" in the ablation
of "Vision Mamba" (ICML 2024, https://arxiv.org/abs/2401.09417, section 4.4): Vim without its backward direction, and
so without that direction's parameters. No weights are published.
"""

from mmbackbones.backbones.plain import Block, PlainBackbone, resolve_plain_arch
from mmbackbones.layers.mamba import MambaMixer
from mmbackbones.registry import MODELS

ARCHS = {'tiny': dict(embed_dims=192, depth=24), 'small': dict(embed_dims=384, depth=24)}


@MODELS.register_module()
class Mamba(PlainBackbone):
    """Causal Mamba on patches; width and depth as in Vim.

    Args:
        arch (str | dict): ``tiny``, ``small``, or a dict, see :func:`resolve_plain_arch`.

    The other arguments are those of :class:`PlainBackbone`.
    """

    def __init__(
        self,
        *,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        out_indices: tuple[int, ...] = (5, 11, 17, 23),
        out_feature: str = 'residual',
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_cfg: dict | None = dict(type='LN', eps=1e-6),  # noqa: B006  (read only)
        init_cfg: dict | list[dict] | None = None,
    ):
        trunk, mixer = resolve_plain_arch('Mamba', arch, ARCHS)
        dim = trunk['embed_dims']
        super().__init__(
            block=lambda _, drop_path: Block(dim, MambaMixer(dim, **mixer), drop_path),
            **trunk,
            img_size=img_size,
            out_indices=out_indices,
            out_feature=out_feature,
            with_cls_token=False,
            rope=False,
            pad_patches=True,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg,
        )
