"""Vim: Mamba in both directions along the patches of an image.

Paper: "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", ICML 2024,
https://arxiv.org/abs/2401.09417. Authors' code and weights: https://github.com/hustvl/Vim (Apache-2.0).

Numerics are the authors', parameter names too. What differs from their code:

* any image size, by padding and by resizing the position table; theirs takes the size of the constructor only;
* released tables have the class token's row in the middle. It is taken out there when the model has no class token;
  the authors' own resizing takes the first row for it;
* a fresh norm on each returned map (``norm_cfg=None`` gives theirs, raw maps);
* with stride 8 a row and a column more, so that maps measure ceil(side / 8) (``pad_patches=False`` gives theirs);
* nothing is flipped for the backward direction.
"""

from mmbackbones.backbones.plain import Block, PlainBackbone, resolve_plain_arch
from mmbackbones.checkpoints.adapters.vim import convert_vim
from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import MambaMixer
from mmbackbones.registry import MODELS

ARCHS = {
    'tiny': dict(embed_dims=192, depth=24),
    'small': dict(embed_dims=384, depth=24),
    'base': dict(embed_dims=768, depth=24),
    'tiny_stride8': dict(embed_dims=192, depth=24, stride=8),
    'small_stride8': dict(embed_dims=384, depth=24, stride=8),
}
# Mixer directions of even and odd blocks.
BIDIRECTIONS = {
    'none': ('forward', 'forward'),
    'layer': ('forward', 'backward'),
    'ssm': ('ssm', 'ssm'),
    'ssm_conv': ('ssm_conv', 'ssm_conv'),
}


@MODELS.register_module()
class Vim(PlainBackbone):
    """Vim for detection and segmentation.

    Args:
        arch (str | dict): ``tiny``, ``small``, ``base``, the fine-tuned ``tiny_stride8`` and ``small_stride8``, or a
            dict, see :func:`resolve_plain_arch`.
        bidirection (str): the settings of the paper's ablation (section 4.4): ``'none'``, which is
            :class:`mmbackbones.backbones.Mamba`; ``'layer'``, blocks forward and backward in turn; ``'ssm'``;
            ``'ssm_conv'``, the released models. See :class:`MambaMixer` for the last two.
        divide_out (bool): halve the sum of both directions, as in all released models. The authors' segmentation
            config of the small model, run with their code of the time, does not.
        out_feature (str): ``'residual'`` or ``'mixer'``; the authors' dense code uses the mixer's output for tiny in
            segmentation and the residual stream elsewhere.
        with_cls_token (bool): keep the class token in the middle of the sequence; the authors' dense code drops it.
        rope (bool): rotary position code on the residual stream before each block (and so on every returned map but
            the last block's), as in some of the authors' dense configs. No released checkpoint was trained with it.

    The other arguments are those of :class:`PlainBackbone`.
    """

    convert_state_dict = staticmethod(convert_vim)

    def __init__(
        self,
        *,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        bidirection: str = 'ssm_conv',
        divide_out: bool = True,
        out_indices: tuple[int, ...] = (5, 11, 17, 23),
        out_feature: str = 'residual',
        with_cls_token: bool = False,
        rope: bool = False,
        pad_patches: bool = True,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_cfg: dict | None = dict(type='LN', eps=1e-6),  # noqa: B006  (read only)
        init_cfg: dict | list[dict] | None = None,
    ):
        if bidirection not in BIDIRECTIONS:
            raise InputError(f'Vim: bidirection={bidirection!r}, expected one of {", ".join(BIDIRECTIONS)}')
        directions = BIDIRECTIONS[bidirection]
        divide_out = divide_out and bidirection in ('ssm', 'ssm_conv')
        trunk, mixer = resolve_plain_arch('Vim', arch, ARCHS)
        dim = trunk['embed_dims']
        super().__init__(
            block=lambda i, drop_path: Block(
                dim, MambaMixer(dim, direction=directions[i % 2], divide_out=divide_out, **mixer), drop_path
            ),
            **trunk,
            img_size=img_size,
            out_indices=out_indices,
            out_feature=out_feature,
            with_cls_token=with_cls_token,
            rope=rope,
            pad_patches=pad_patches,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg,
        )
