"""S4ND's convolution: equal to a direct one, its kernels to the recurrence, at any size of map."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.analysis.complexity.count import count_module
from mmbackbones.layers.s4nd import AxisKernel, S4NDMixer, fast_length, fft_flops, separable_convolution

DIM = 6
GRIDS = [(1, 1), (1, 5), (4, 7), (9, 3), (16, 13)]


def kernel(length, d_state=5):
    torch.manual_seed(length)
    axis = AxisKernel(DIM, d_state)
    axis.log_dt.data.uniform_(-2, 0)
    return axis


def directly(x, rows, columns):
    """The same by a convolution whose kernel is twice as large as the map. PyTorch's kernels are mirrored."""
    weight = (rows[:, :, None] * columns[:, None, :]).flip(1, 2)[:, None]
    return F.conv2d(x, weight, padding=[side - 1 for side in x.shape[-2:]], groups=x.shape[1])


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_it_is_a_direct_convolution(grid):
    """Values and every gradient."""
    x = torch.randn(2, DIM, *grid, requires_grad=True)
    kernels = [kernel(side)(side).detach().requires_grad_() for side in grid]
    weight = torch.randn(2, DIM, *grid)
    found, expected = separable_convolution(x, *kernels), directly(x, *kernels)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    inputs = dict(x=x, rows=kernels[0], columns=kernels[1])
    gradients = [torch.autograd.grad((y * weight).sum(), inputs.values()) for y in (found, expected)]
    for name, one, other in zip(inputs, *gradients):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f'{n}: {m}')


def test_it_is_two_convolutions_in_turn():
    x = torch.randn(2, DIM, 5, 8)
    rows, columns = kernel(5)(5), kernel(8)(8)
    here, there = torch.zeros(DIM, 9), torch.zeros(DIM, 15)
    here[:, 4] = there[:, 7] = 1  # a kernel that leaves an axis alone
    in_turn = separable_convolution(separable_convolution(x, rows, there), here, columns)
    torch.testing.assert_close(separable_convolution(x, rows, columns), in_turn, atol=1e-5, rtol=1e-4)


def test_kernels_are_those_of_the_recurrence():
    """x' = A x + B u with a held input: the impulse responses of the discrete system, with B = 1, ahead and behind."""
    axis, length = kernel(3), 7
    with torch.no_grad():
        A = torch.complex(-axis.A_log.exp(), axis.A_imag).to(torch.complex128)
        dt = axis.log_dt.exp().double()[:, None]
        C = torch.view_as_complex(axis.C.double())
        decay = (dt * A).exp()
        state, outputs = (decay - 1) / A, []
        for _ in range(length):
            outputs.append(2 * (C * state).sum(-1).real)
            state = decay * state
        ahead, behind = torch.stack(outputs, dim=-1)
        found = axis(length).double()
    torch.testing.assert_close(found[:, length - 1 :], ahead, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, : length - 1].flip(-1), behind[:, :-1], atol=1e-5, rtol=1e-4)


def test_larger_maps_have_the_same_kernel_and_more_of_it():
    axis = kernel(1)
    torch.testing.assert_close(axis(9)[:, 4:-4], axis(5))


def test_every_token_reaches_every_other():
    """By the gradient of a sum of outputs: it is the kernel, nowhere zero."""
    torch.manual_seed(0)
    mixer, x = S4NDMixer(DIM, 4), torch.zeros(1, 5, 6, DIM, requires_grad=True)
    for axis in (mixer.rows, mixer.columns):
        axis.log_dt.data.fill_(math.log(0.3))
    y = separable_convolution(x.permute(0, 3, 1, 2), mixer.rows(5), mixer.columns(6))
    y[0, :, 2, 1].sum().backward()
    expected = mixer.rows(5)[:, 2:7].flip(1)[:, :, None] * mixer.columns(6)[:, 1:7].flip(1)[:, None, :]
    torch.testing.assert_close(x.grad[0].permute(2, 0, 1), expected, atol=1e-6, rtol=1e-3)
    assert expected.abs().min() > 1e-5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_half_precision_convolves_in_float32(dtype):
    torch.manual_seed(0)
    mixer, x = S4NDMixer(DIM, 4), 1e3 * torch.randn(1, 24, 31, DIM)
    with torch.autocast('cpu', dtype=dtype):
        y = mixer(x.to(dtype))
    assert y.dtype == dtype and y.isfinite().all()
    expected = mixer(x.to(dtype).float())
    assert (y - expected).abs().max() < 0.02 * expected.abs().max()


def test_fast_lengths():
    assert [fast_length(least) for least in (1, 7, 11, 13, 127, 399, 401, 1279)] == [1, 8, 12, 15, 128, 400, 405, 1280]
    for least in range(1, 300):
        length = fast_length(least)
        assert least <= length < 1.25 * least + 2
        for factor in (2, 3, 5):
            while length % factor == 0:
                length //= factor
        assert length == 1


def test_transforms_are_counted_by_the_stated_formula():
    """16 points of 4 x 4, real: 2.5 * 16 * 4 operations, half as many MACs; complex ones have twice that."""
    assert fft_flops(16, 3, real=True) == 3 * 160 and fft_flops(16, 1, real=False) == 320

    class Transforms(torch.nn.Module):
        def forward(self, x):
            return torch.fft.irfft2(torch.fft.rfft2(x), s=(4, 4)), torch.fft.fft2(x.to(torch.complex64))

    macs = count_module(Transforms(), torch.empty(3, 4, 4)).macs['Global']
    assert macs == {'aten._fft_r2c': 240, 'aten._fft_c2r': 240, 'aten._fft_c2c': 480}
