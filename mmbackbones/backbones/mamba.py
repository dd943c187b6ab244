"""Mamba: the original, causal block on image patches in raster order. The control for directionality.

Block: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", https://arxiv.org/abs/2312.00752, authors'
code https://github.com/state-spaces/mamba (Apache-2.0). As a vision backbone it is the setting "None" in the ablation
of "Vision Mamba" (ICML 2024, https://arxiv.org/abs/2401.09417, section 4.4): Vim without its backward direction, and
so without that direction's parameters. No weights are published.
"""

from mmbackbones.backbones.base import Block, PlainBackbone
from mmbackbones.layers.mamba import MambaMixer
from mmbackbones.registry import MODELS


@MODELS.register_module()
class Mamba(PlainBackbone):
    """Causal Mamba on patches; width and depth as in Vim. ``arch`` and arguments: see :class:`PlainBackbone`."""

    archs = {'tiny': dict(embed_dims=192, depth=24), 'small': dict(embed_dims=384, depth=24)}

    def make_block(self, index: int, dim: int, drop_path: float) -> Block:
        return Block(dim, MambaMixer(dim, **self.mamba_options), drop_path)
