"""S4ND's mixer: one long convolution over a map whose kernel is the outer product of a kernel per axis.

Paper: "S4ND: Modeling Images and Videos as Multidimensional Signals with State Spaces", NeurIPS 2022,
https://arxiv.org/abs/2210.06583 (section 3, of rank one). The kernels of the axes are S4D's
(https://arxiv.org/abs/2206.11893, equation 7 and the initialization S4D-Lin) in both directions, which is how the paper
uses them on images. They depend on the distance alone, not on the tokens. Written from the papers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DT_RANGE = (1e-3, 1e-1)
REAL_FLOPS, COMPLEX_FLOPS = 2.5, 5.0  # of a Fourier transform, per point and log2 of the points: the usual convention


class AxisKernel(nn.Module):
    """Kernel of one axis and every channel: diagonal state-space models with complex states, one per direction.

    At distance t >= 0 it is ``2 Re sum_n C_n (exp(dt A_n) - 1) / A_n exp(dt A_n t)``. Behind, it is the same sum with a
    second C, whose t is 0 at distance -1 and grows downwards. Both directions share A and ``dt``.

    Args:
        dim (int): channels C.
        d_state (int): real state size; conjugate pairs are half as many, rounded up.
    """

    def __init__(self, dim: int, d_state: int):
        super().__init__()
        pairs = (d_state + 1) // 2
        low, high = map(math.log, DT_RANGE)
        self.log_dt = nn.Parameter(torch.empty(dim).uniform_(low, high))
        self.A_log = nn.Parameter(torch.full((dim, pairs), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(pairs).float().repeat(dim, 1))
        self.C = nn.Parameter(
            torch.randn(2, dim, pairs, 2) * 0.5**0.5
        )  # directions, channels, pairs, real and imaginary

    def forward(self, length: int) -> Tensor:
        """Kernel [C, 2 * length - 1] in float32, from distance ``1 - length`` to ``length - 1``."""
        A = torch.complex(-self.A_log.float().exp(), self.A_imag.float())
        step = A * self.log_dt.float().exp()[:, None]
        weight = torch.view_as_complex(self.C.float()) * (step.exp() - 1) / A
        times = torch.arange(length, device=step.device)
        powers = (step[..., None] * times).exp()  # [C, pairs, length]
        ahead, behind = 2 * (weight[..., None] * powers).sum(-2).real
        return torch.cat((behind[:, : length - 1].flip(-1), ahead), dim=-1)


class S4NDMixer(nn.Module):
    """S4's layer with S4ND's convolution: convolution, skip, GELU, linear, on maps [B, H, W, C] of any size.

    Args:
        dim (int): channels C.
        d_state (int): state size of each axis.
    """

    def __init__(self, dim: int, d_state: int):
        super().__init__()
        self.rows, self.columns = AxisKernel(dim, d_state), AxisKernel(dim, d_state)
        self.D = nn.Parameter(torch.ones(dim))
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # half precision has neither transform nor room for it
            signal = x.float().permute(0, 3, 1, 2)  # [B, H, W, C] -> [B, C, H, W]
            height, width = signal.shape[-2:]
            y = separable_convolution(signal, self.rows(height), self.columns(width))
            y = y + self.D.float()[:, None, None] * signal
        return self.proj(F.gelu(y).permute(0, 2, 3, 1).to(x.dtype))


def separable_convolution(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Convolve each channel with the outer product of two kernels, without wrapping around, by Fourier transforms.

    Args:
        x: float32 [B, C, H, W].
        rows: float32 [C, 2 * H - 1], from distance 1 - H to H - 1.
        columns: float32 [C, 2 * W - 1].

    Returns:
        Tensor: float32 [B, C, H, W]; ``y[i, j] = sum over k, l of rows[i - k] * columns[j - l] * x[k, l]``.
    """
    height, width = x.shape[-2:]
    size = tuple(fast_length(2 * side - 1) for side in (height, width))
    spectrum = torch.fft.rfft2(x, s=size)
    spectrum = spectrum * torch.fft.fft(_around_zero(rows, size[0]))[..., :, None]
    spectrum = spectrum * torch.fft.rfft(_around_zero(columns, size[1]))[..., None, :]
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def fast_length(least: int) -> int:
    """The smallest product of twos, threes and fives from ``least`` on: transforms of other lengths are slower."""
    best = 2 ** math.ceil(math.log2(least))
    for threes in range(best.bit_length()):
        for fives in range(best.bit_length()):
            odd = 3**threes * 5**fives
            if odd < best:
                best = min(best, odd * 2 ** max(math.ceil(math.log2(least / odd)), 0))
    return best


def fft_flops(points: int, batch: int, real: bool) -> float:
    """Floating-point operations of Fourier transforms: 5 n log2 n for n complex points, half of it for real ones.

    Args:
        points: points n of one transform, over all of its axes.
        batch: number of transforms.
        real: input or output is real.
    """
    return (REAL_FLOPS if real else COMPLEX_FLOPS) * points * math.log2(points) * batch


def s4nd_macs(dim: int, height: int, width: int) -> float:
    """Multiply-accumulates of the transforms of :class:`S4NDMixer` on one map, two operations each.

    The map's two transforms and one of each kernel. Products of spectra and the making of the kernels are element-wise
    and not counted.
    """
    rows, columns = (fast_length(2 * side - 1) for side in (height, width))
    transforms = ((rows * columns, 2), (rows, 1), (columns, 1))  # points, number per channel
    return sum(fft_flops(points, dim * number, real=True) / 2 for points, number in transforms)


def _around_zero(kernel: Tensor, size: int) -> Tensor:
    """[C, 2 * length - 1] -> [C, size], distance 0 first and negative ones at the end, as a circular kernel."""
    length = (kernel.shape[-1] + 1) // 2
    return F.pad(kernel, (0, size - kernel.shape[-1])).roll(1 - length, -1)
