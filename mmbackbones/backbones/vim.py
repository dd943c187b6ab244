"""Vim: Mamba in both directions along the patches of an image.

Paper: "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", ICML 2024,
https://arxiv.org/abs/2401.09417. Authors' code and weights: https://github.com/hustvl/Vim (Apache-2.0).

Numerics and parameter names are the authors'. Differences from their code:

* this backbone takes any image size, by padding and by resizing the position table; theirs takes only the size of the
  constructor;
* released tables have the class token's row in the middle. A model without class token removes the middle row; the
  authors' resizing removes the first row;
* a new norm follows each returned map (``norm_cfg=None`` gives raw maps, as in their code);
* with stride 8 maps have one more row and column, ceil(side / 8) (``pad_patches=False`` gives their size);
* the backward direction flips no tensor.
"""

from typing_extensions import Unpack

from mmbackbones.backbones.base import Block, PlainBackbone, PlainRunOptions
from mmbackbones.checkpoints.adapters.vim import convert_vim
from mmbackbones.layers.mamba import MambaMixer
from mmbackbones.registry import MODELS

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
        bidirection (str): the settings of the paper's ablation (section 4.4): ``'none'``, which is
            :class:`mmbackbones.backbones.Mamba`; ``'layer'``, forward and backward blocks alternate; ``'ssm'``;
            ``'ssm_conv'``, the released models. See :class:`MambaMixer` for the last two.
        divide_out (bool): halve the sum of both directions, as in all released models. The authors' segmentor of the
            small model does not.
        with_cls_token (bool): keep the class token in the middle of the sequence. The authors' dense code drops it.
        rope (bool): rotary position code on the residual stream before each block, and therefore on every returned map
            except the last block's. Some of the authors' dense configs have it. No released checkpoint was trained with
            it. It excludes ``with_cls_token``.
        pad_patches (bool): zero-pad the image so that every stride starts a patch, see :class:`PatchEmbed`.

    ``arch`` and the other arguments: see :class:`PlainBackbone`. The authors' dense code returns the mixer's output
    (``out_feature='mixer'``) for tiny in segmentation and the residual stream elsewhere.
    """

    archs = {
        'tiny': dict(embed_dims=192, depth=24),
        'small': dict(embed_dims=384, depth=24),
        'base': dict(embed_dims=768, depth=24),
        'tiny_stride8': dict(embed_dims=192, depth=24, stride=8),  # fine-tuned from tiny, as the next from small
        'small_stride8': dict(embed_dims=384, depth=24, stride=8),
    }
    convert_state_dict = staticmethod(convert_vim)

    def __init__(
        self,
        *,
        bidirection: str = 'ssm_conv',
        divide_out: bool = True,
        with_cls_token: bool = False,
        rope: bool = False,
        pad_patches: bool = True,
        **run: Unpack[PlainRunOptions],
    ):
        self.check_choice(BIDIRECTIONS, bidirection=bidirection)
        self.directions = BIDIRECTIONS[bidirection]
        self.divide_out = divide_out and bidirection in ('ssm', 'ssm_conv')
        self.with_cls_token, self.rope, self.pad_patches = with_cls_token, rope, pad_patches
        super().__init__(**run)

    def make_block(self, index: int, dim: int, drop_path: float) -> Block:
        direction = self.directions[index % 2]
        mixer = MambaMixer(dim, direction=direction, divide_out=self.divide_out, **self.mamba_options)
        return Block(dim, mixer, drop_path)
