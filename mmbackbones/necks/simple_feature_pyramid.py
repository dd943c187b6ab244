"""The simple feature pyramid of ViTDet: several strides out of the one map of a plain backbone."""

from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS

MODELS.register_module(name='LN2d', module=LayerNorm2d)
LN2D = dict(type='mmbackbones.LN2d', eps=1e-6)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Resample the last map to several strides ("Exploring Plain Vision Transformer Backbones for Object Detection",
    ECCV 2022, https://arxiv.org/abs/2203.16527, section 3).

    Each level resamples (deconvolutions up, max pooling down), then a 1x1 and a 3x3 convolution follow. Channels halve
    with each deconvolution, as in detectron2's ViTDet. With a map of stride 16 the defaults give strides 4 to 64. Odd
    sides round up when pooled, so that every level measures ceil(side / stride).

    Args:
        in_channels (int): channels of the map; of the last one, if a list is given.
        out_channels (int): channels of every level.
        scales (tuple[float, ...]): size of each level relative to the map, descending: 4, 2, 1 or 0.5. A map of stride
            8 wants (2, 1, 0.5, 0.25).
        num_outs (int): levels in all; those past ``scales`` take every second pixel of the last.
        norm_cfg (dict | None): norm after each convolution and inside the fourfold deconvolution,
            ``mmbackbones.LN2d`` (LayerNorm over channels) as in ViTDet. None: no norm, and convolutions with bias.
        init_cfg (dict | list[dict] | None): mmengine's initializers.

    Raises:
        InputError: a scale that is no power of two from 0.25 to 4, or fewer outputs than scales.
    """

    def __init__(
        self,
        in_channels: int | list[int],
        out_channels: int = 256,
        scales: tuple[float, ...] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        norm_cfg: dict | None = LN2D,
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(init_cfg)
        if num_outs < len(scales):
            raise InputError(
                f'SimpleFeaturePyramid: num_outs={num_outs}, expected at least {len(scales)} for scales={tuple(scales)}'
            )
        if not isinstance(in_channels, int):
            in_channels = in_channels[-1]
        self.num_extra = num_outs - len(scales)
        self.levels = nn.ModuleList()
        for scale in scales:
            resample, channels = _resample(in_channels, scale, norm_cfg)
            self.levels.append(
                nn.Sequential(
                    *resample,
                    ConvModule(channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None),
                    ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None),
                )
            )
        self.extra = nn.MaxPool2d(1, stride=2)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps of the backbone, of which the last [B, C, H, W] is used -> ``num_outs`` maps, finest first."""
        outs = [level(inputs[-1]) for level in self.levels]
        for _ in range(self.num_extra):
            outs.append(self.extra(outs[-1]))
        return tuple(outs)


def _resample(channels: int, scale: float, norm_cfg: dict | None) -> tuple[list[nn.Module], int]:
    """Layers that resize a map by ``scale``, and the channels that they leave."""
    if scale == 4:
        norm = [] if norm_cfg is None else [build_norm_layer(norm_cfg, channels // 2)[1]]
        up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        return [up, *norm, nn.GELU(), nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2)], channels // 4
    if scale == 2:
        return [nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)], channels // 2
    if scale == 1:
        return [], channels
    if scale in (0.5, 0.25):
        stride = round(1 / scale)
        return [nn.MaxPool2d(stride, ceil_mode=True)], channels
    raise InputError(f'SimpleFeaturePyramid: scale {scale} in scales, expected 4, 2, 1, 0.5 or 0.25')
