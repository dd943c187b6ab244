"""The selective scan on the CPU, in C++ (csrc/scan.cpp).

The interface is plain C, so that one build serves every version of torch.
The package's install builds the library for several instruction sets; the best that this CPU has is loaded.
"""

import ctypes
import functools
import struct
from pathlib import Path

import torch
from torch import Tensor

from mmbackbones.ops.selective_scan.backend import ScanArguments
from mmbackbones.ops.selective_scan.checks import bad_order

DEVICES = ('cpu',)
FLOAT64 = False
INDEXED = True

CHUNK, REST = 64, 16
# Best first, by torch's name of the capability.
LIBRARIES = {'AVX512': '_scan_avx512', 'AVX2': '_scan_avx2', 'baseline': '_scan_baseline'}


# The fields of ScanProblem in csrc/scan.cpp: integers and addresses of 64 bits. Packed, since an array of ctypes takes
# ten times as long to fill.
PROBLEM = struct.Struct('52q')


@functools.cache
def load(isa: str) -> ctypes.CDLL | None:
    """The library for an instruction set, None where it was not built."""
    for path in Path(__file__).parent.glob(f'{LIBRARIES[isa]}.*'):
        if path.suffix in ('.so', '.dylib'):
            library = ctypes.CDLL(str(path))
            for name in ('scan_forward', 'scan_backward'):
                getattr(library, name).argtypes = [ctypes.c_char_p]
            for name in ('scan_exponentials_table', 'scan_exponentials_polynomial'):
                getattr(library, name).argtypes = [ctypes.c_int64]
                getattr(library, name).restype = ctypes.c_float
            return library
    return None


@functools.cache
def isa() -> str | None:
    """The best instruction set that this CPU has and the library was built for, None if there is none."""
    capability = torch.backends.cpu.get_cpu_capability()
    names = list(LIBRARIES)
    usable = names[names.index(capability) :] if capability in names else ['baseline']
    return next((name for name in usable if load(name) is not None), None)


def available() -> str | None:
    if isa() is None:
        return 'the C++ kernel was not built (the install found no working C++ compiler; reinstall with one)'
    return None


def saved_shape(batch: int, dim: int, length: int, state: int) -> tuple:
    # A rest of less than REST steps belongs to the chunk before it.
    return batch, torch.sym_max(1, (length + CHUNK - REST) // CHUNK), state, dim


def forward(scan: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, dim, _), state, given = scan.u.shape, scan.A.shape[1], _prepare(scan)
    out, last_state = _like(given.u, given.order), given.u.new_empty(batch, dim, state)
    saved = given.u.new_empty(saved_shape(batch, dim, _slots(given), state) if save else 0)
    _call(
        'scan_forward',
        *_sizes(given),
        *_views(given, dout=None),
        out.data_ptr(),
        last_state.data_ptr(),
        saved.data_ptr() if save else 0,
        *[0] * 9,
    )
    return out if scan.u.dtype == torch.float32 else out.to(scan.u.dtype), last_state, saved


def backward(scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None, saved: Tensor) -> tuple[Tensor, ...]:
    (batch, dim, _), state, given = scan.u.shape, scan.A.shape[1], _prepare(scan)
    dout, dlast_state = _rows(dout) if given.order is not None else _sequence(dout), _small(dlast_state)
    u, order, (splits, _) = given.u, given.order, _shares(given.u, given.B)
    du, ddelta, dz = _like(u, order), _like(u, order), None if given.z is None else _like(u, order)
    # Parts, one per batch item or share; where there is but one it is the result.
    items, shares = (batch,) if batch > 1 else (), (splits,) if splits > 1 else ()
    dA, dB, dC = u.new_empty(*items, dim, state), *(u.new_empty(*shares, *given.B.shape) for _ in range(2))
    dD, ddelta_bias = (None if x is None else u.new_empty(*items, dim) for x in (given.D, given.delta_bias))
    _call(
        'scan_backward',
        *_sizes(given),
        *_views(given, dout),
        0,
        0,
        saved.data_ptr(),
        _at(dlast_state),
        du.data_ptr(),
        ddelta.data_ptr(),
        _at(dz),
        dA.data_ptr(),
        _at(dD),
        _at(ddelta_bias),
        dB.data_ptr(),
        dC.data_ptr(),
    )
    if items:
        dA, dD, ddelta_bias = (None if x is None else x.sum(0) for x in (dA, dD, ddelta_bias))
    if shares:
        dB, dC = dB.sum(0), dC.sum(0)
    return tuple(
        u.new_empty(0) if x is None else gradient if x.dtype == torch.float32 else gradient.to(x.dtype)
        for x, gradient in zip(scan.tensors, (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias))
    )


def _prepare(scan: ScanArguments) -> ScanArguments:
    """The tensors as the kernel reads them."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, order = scan
    sequence, maps = (_sequence, _small) if order is None else (_rows, _float32)
    return ScanArguments(
        sequence(u),
        sequence(delta),
        _small(A),
        maps(B),
        maps(C),
        _small(D),
        sequence(z),
        _small(delta_bias),
        delta_softplus,
        reverse,
        None if order is None else order.contiguous(),
    )


def _slots(scan: ScanArguments) -> int:
    return scan.u.shape[2] if scan.order is None else len(scan.order)


def _sizes(scan: ScanArguments) -> tuple[int, ...]:
    return (
        *scan.u.shape,
        scan.A.shape[1],
        scan.B.shape[1],
        _slots(scan),
        _at(scan.order),
        scan.delta_softplus,
        scan.reverse,
        *_shares(scan.u, scan.B),
    )


def _views(scan: ScanArguments, dout: Tensor | None) -> tuple[int, ...]:
    return (
        *_view(scan.u),
        *_view(scan.delta),
        *_view(scan.z),
        *_view(dout),
        scan.B.data_ptr(),
        *scan.B.stride(),
        scan.C.data_ptr(),
        *scan.C.stride(),
        scan.A.data_ptr(),
        _at(scan.D),
        _at(scan.delta_bias),
    )


def _sequence(x: Tensor | None) -> Tensor | None:
    """(B, D, L) as the kernel reads it: float32, steps or channels next to each other."""
    if x is None:
        return None
    x = _float32(x)
    return x if 1 in x.stride()[1:] else x.contiguous()


def _rows(x: Tensor | None) -> Tensor | None:
    """(B, D, L) as the kernel reads it by an order: float32, channels next to each other."""
    if x is None:
        return None
    x = _float32(x)
    return x if x.stride(1) == 1 else x.transpose(1, 2).contiguous().transpose(1, 2)


def _float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else x.float()


def _like(u: Tensor, order: Tensor | None) -> Tensor:
    """A new (B, D, L), steps next to each other, with an order channels."""
    batch, dim, length = u.shape
    return u.new_empty(batch, dim, length) if order is None else u.new_empty(batch, length, dim).transpose(1, 2)


def _small(x: Tensor | None) -> Tensor | None:
    if x is None or (x.dtype == torch.float32 and x.is_contiguous()):
        return x
    return x.float().contiguous()


def _shares(u: Tensor, B: Tensor) -> tuple[int, int]:
    """Into how many shares the channels of a group are cut, for every thread to have one; and the threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return 1, 1
    batch, groups = B.shape[:2]
    return min(-(-threads // (batch * groups)), -(-u.shape[1] // (16 * groups))), threads


def _view(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if x is None else (x.data_ptr(), *x.stride())


def _at(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _call(function: str, *fields: int) -> None:
    fault = getattr(load(isa()), function)(PROBLEM.pack(*fields))
    if fault == 1:
        raise MemoryError('selective scan: no memory for the working buffers of a thread')
    if fault:
        raise bad_order(length=fields[2], slots=fields[5])
