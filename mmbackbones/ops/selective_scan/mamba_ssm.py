"""mamba_ssm's own CUDA kernel (https://github.com/state-spaces/mamba), where it is installed.

It wants one dtype for the sequences, has no reverse scan and no gradient of the last state, and takes a slower, scalar
path unless the sequence fills its tiles. So sequences are cast, flipped, and padded at the end where the padding is
exact and short: a step of zero leaves the state alone.
"""

import functools
import importlib
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan.backend import ScanArguments

DEVICES = ('cuda',)
FLOAT64 = False
INDEXED = False

MOST_PADDING = 1.25
NO_STEP = -1e4  # within float16; its softplus is exactly 0


EXTENSION = 'selective_scan_cuda'
# Since mamba_ssm's pull request 977 (2026) a build compiles the scan only with the first variable. With the second one
# it compiles here, and fetches no wheel that was built for another torch.
BUILD = 'MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation'


@functools.cache
def available() -> str | None:
    for module in ('mamba_ssm.ops.selective_scan_interface', EXTENSION):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return _advice(error)
    return None


def _advice(error: ImportError) -> str:
    if error.name != EXTENSION:
        return f'mamba_ssm cannot be imported ({error}); with nvcc: {BUILD} "mmbackbones[mamba]"'
    again = f'with nvcc: {BUILD} --no-cache-dir --no-deps --force-reinstall mamba-ssm'
    if isinstance(error, ModuleNotFoundError):
        return f'mamba_ssm is installed without its CUDA extension {EXTENSION}; {again}'
    return f"mamba_ssm's CUDA extension {EXTENSION} does not fit this torch {torch.__version__} ({error}); {again}"


def saved_shape(batch: int, dim: int, length: int, state: int) -> tuple:
    return (0,)


def forward(scan: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    inputs = _prepare(scan)
    out, last_state = _kernel().forward(_Context(), *inputs, scan.delta_softplus, True)
    out = _restore(out, scan).to(scan.u.dtype)
    return out.contiguous(), last_state.float().contiguous(), out.new_empty(0, dtype=torch.float32)


def backward(scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None, saved: Tensor) -> tuple[Tensor, ...]:
    if dlast_state is not None:
        raise InputError(
            "selective_scan: backend 'mamba_ssm' has no gradient of the last state, expected another backend"
        )
    inputs = _prepare(scan)
    context = _Context()
    _kernel().forward(context, *inputs, scan.delta_softplus, False)
    dout = _sequence(dout.to(inputs[0].dtype), inputs[0].shape[-1], 0, scan.reverse)
    # u, delta, A, B, C, D, z and delta_bias; what follows are the gradients of its other arguments, None.
    gradients = list(_kernel().backward(context, dout)[:8])
    for i in (0, 1, 3, 4, 6):
        gradients[i] = None if scan[i] is None else _restore(gradients[i], scan)
    return tuple(
        scan.u.new_empty(0) if x is None else gradient.to(x.dtype).reshape(x.shape).contiguous()
        for x, gradient in zip(scan.tensors, gradients)
    )


class _Context(SimpleNamespace):
    """Stands in for autograd's: the kernel's autograd function is called from inside an operator."""

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def _kernel():
    return importlib.import_module('mamba_ssm.ops.selective_scan_interface').SelectiveScanFn


def _prepare(
    scan: ScanArguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The eight tensors as the kernel takes them."""
    u, delta, A, B, C, D, z, delta_bias, *_ = scan
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in (u, delta, B, C, z) if x is not None))
    length, reverse = u.shape[-1], scan.reverse
    padded = _tile_length(length)
    exact = scan.delta_softplus or delta_bias is None
    if not exact or padded > MOST_PADDING * length:
        padded = length
    u, B, C, z = (None if x is None else _sequence(x.to(dtype), padded, 0, reverse) for x in (u, B, C, z))
    delta = _sequence(delta.to(dtype), padded, NO_STEP if scan.delta_softplus else 0, reverse)
    A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    return u, delta, A, B, C, D, z, delta_bias


def _tile_length(length: int) -> int:
    """The next length that fills the kernel's tiles."""
    return next((size for size in (128, 256, 512, 1024) if length <= size), -(-length // 2048) * 2048)


def _sequence(x: Tensor, length: int, value: float, reverse: bool) -> Tensor:
    x = x.flip(-1) if reverse else x
    return F.pad(x, (0, length - x.shape[-1]), value=value).contiguous()


def _restore(x: Tensor, scan: ScanArguments) -> Tensor:
    x = x[..., : scan.u.shape[-1]]
    return x.flip(-1) if scan.reverse else x
