"""EfficientVMamba: skipping scans beside convolutions in the high-resolution stages, convolutions alone in the others.

Paper: "EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba", AAAI 2025,
https://arxiv.org/abs/2403.09977
Authors' code and weights: https://github.com/TerryPei/EfficientVMamba (its README says Apache-2.0). Written anew from
the paper and from recorded activations of that code; adapters bring its parameter names to ours.

The sizes are those of the released weights: small is 64 wide, although the published yaml and detection config say 96.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.efficientvmamba import convert_efficientvmamba
from mmbackbones.layers.channel_gate import ChannelGate
from mmbackbones.layers.ss2d import SS2D, in_float32
from mmbackbones.layers.stems import patch_stem
from mmbackbones.layers.windows import missing
from mmbackbones.ops.scan_orders import ScanOrder, permute_tokens, quarter_orders
from mmbackbones.registry import MODELS

SCANNING_STAGES = 2


class SkipSS2D(SS2D):
    """SS2D over four interleaved quarters of the map, each pixel in exactly one (the paper's ES2D, section 3.2).

    Odd sides leave padding slots that add nothing to the state but let it decay, as in the published weights' training.
    """

    def scan(self, x: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, H*W, D], written back, not summed."""
        if torch.compiler.is_exporting():
            return self.scan_padded(x)
        quarters, orders, lengths = quarter_orders(*x.shape[-2:], x.device)
        x = permute_tokens(x.flatten(2).transpose(1, 2), quarters)  # [B, D, H, W] -> [B, H*W, D], quarter by quarter
        parts = zip(x.split(lengths, 1), in_float32(x).split(lengths, 1), self.x_proj_weight, orders)
        y = torch.cat(
            [self.scan_tokens(u, F.linear(part, weight), k, order) for k, (part, u, weight, order) in enumerate(parts)],
            1,
        )
        return permute_tokens(y, ScanOrder(quarters.inverse, quarters.order))

    def scan_padded(self, x: Tensor) -> Tensor:
        """The same on the map padded to even sides: all quarters have one length, which a graph for any size needs."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, missing(width, 2), 0, missing(height, 2))).permute(0, 2, 3, 1)  # [B, D, H, W] -> [B, H, W, D]
        outputs = []
        for k, weight in enumerate(self.x_proj_weight):
            column, down = divmod(k, 2)  # odd rows are scanned by columns
            quarter = x[:, down::2, column::2]
            quarter = quarter.transpose(1, 2) if down else quarter
            tokens = quarter.flatten(1, 2)
            y = self.scan_tokens(in_float32(tokens), F.linear(tokens, weight), k).unflatten(1, quarter.shape[1:3])
            outputs.append(y.transpose(1, 2) if down else y)
        rows = [torch.stack(outputs[down::2], 3).flatten(2, 3) for down in range(2)]  # -> [B, H/2, W, D]
        y = torch.stack(rows, 2).flatten(1, 2)[:, :height, :width]
        return y.clone(memory_format=torch.contiguous_format).flatten(
            1, 2
        )  # a view for even sides would be their graph


class ScanBlock(nn.Module):
    """``x + gate(scan(n)) + gate(conv(n))`` with ``n = LN(x)`` and one gate for both, on maps [B, H, W, C]."""

    def __init__(self, dim: int, drop_path: float, d_state: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SkipSS2D(dim, d_state=d_state, conv_bias=True, gate=True)
        self.conv_branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.BatchNorm2d(dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )
        self.se = ChannelGate(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        local = self.conv_branch(n.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [B, H, W, C] -> [B, C, H, W] and back
        return x + self.drop_path(self.se(self.op(n)) + self.se(local))


class InvertedResidual(nn.Module):
    """MobileNet's block with squeeze-and-excitation and ReLU, four times as wide inside, on maps [B, H, W, C]."""

    def __init__(self, dim: int, drop_path: float):
        super().__init__()
        inner = 4 * dim
        self.conv_pw = nn.Sequential(nn.Conv2d(dim, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
        self.conv_dw = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU()
        )
        self.se = SqueezeExcite(inner, rd_channels=dim // 2)
        self.conv_pw2 = nn.Sequential(nn.Conv2d(inner, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 3, 1, 2)  # [B, H, W, C] -> [B, C, H, W]
        y = self.conv_pw2(self.se(self.conv_dw(self.conv_pw(y))))
        return x + self.drop_path(y.permute(0, 2, 3, 1))  # [B, C, H, W] -> [B, H, W, C]


@MODELS.register_module()
class EfficientVMamba(StagedBackbone):
    """EfficientVMamba for detection and segmentation: stages 0 and 1 scan, stages 2 and 3 are convolutions.

    Key of ``arch`` besides ``dims`` and ``depths``: ``d_state`` (16).
    """

    archs = {
        'tiny': dict(dims=48, depths=(2, 2, 4, 2)),
        'small': dict(dims=64, depths=(2, 2, 4, 2)),
        'base': dict(dims=96, depths=(2, 2, 9, 2)),
    }
    arch_defaults = dict(d_state=16)
    convert_state_dict = staticmethod(convert_efficientvmamba)

    def make_stem(self, dim: int) -> nn.Module:
        return patch_stem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> ScanBlock | InvertedResidual:
        if stage < SCANNING_STAGES:
            return ScanBlock(dim, drop_path, self.arch.d_state)
        return InvertedResidual(dim, drop_path)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return PatchMerging(dim, next_dim)
