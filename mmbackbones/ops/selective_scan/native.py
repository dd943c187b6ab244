"""The selective scan on the CPU, in C++ (scan.cpp) behind a plain C interface: one build serves every version of torch.

The package's install builds the library for several instruction sets; the best that this CPU has is loaded.
"""

import ctypes
import functools
import struct
from pathlib import Path

import torch
from torch import Tensor

from mmbackbones.ops.selective_scan.frame import bad_order

DEVICES = ('cpu',)
FLOAT64 = False
INDEXED = True

CHUNK, REST = 64, 16
# Best first, by torch's name of the capability.
LIBRARIES = {'AVX512': '_scan_avx512', 'AVX2': '_scan_avx2', 'baseline': '_scan_baseline'}


# The fields of ScanProblem in scan.cpp: integers and addresses of 64 bits. Packed, since an array of ctypes takes ten
# times as long to fill.
PROBLEM = struct.Struct('52q')

ALL_FLOAT32 = [torch.float32] * 8


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


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, order=None):
    dtype, (batch, dim, length), state, (splits, threads) = u.dtype, u.shape, A.shape[1], _shares(u, B)
    sequence, maps, slots = (_sequence, _small, length) if order is None else (_rows, _float32, len(order))
    order = None if order is None else order.contiguous()
    u, delta, z, B, C = sequence(u), sequence(delta), sequence(z), maps(B), maps(C)
    A, D, delta_bias = _small(A), _small(D), _small(delta_bias)
    out, last_state = _like(u, order), u.new_empty(batch, dim, state)
    saved = u.new_empty(saved_shape(batch, dim, slots, state) if save else 0)
    _call(
        'scan_forward',
        batch,
        dim,
        length,
        state,
        B.shape[1],
        slots,
        _at(order),
        delta_softplus,
        reverse,
        splits,
        threads,
        *_view(u),
        *_view(delta),
        *_view(z),
        *_view(None),
        B.data_ptr(),
        *B.stride(),
        C.data_ptr(),
        *C.stride(),
        A.data_ptr(),
        _at(D),
        _at(delta_bias),
        out.data_ptr(),
        last_state.data_ptr(),
        saved.data_ptr() if save else 0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    return out if dtype == torch.float32 else out.to(dtype), last_state, saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse, order=None):
    dtypes = [None if x is None else x.dtype for x in (u, delta, A, B, C, D, z, delta_bias)]
    (batch, dim, length), state, (splits, threads) = u.shape, A.shape[1], _shares(u, B)
    sequence, maps, slots = (_sequence, _small, length) if order is None else (_rows, _float32, len(order))
    order = None if order is None else order.contiguous()
    dout, u, delta, z, B, C = sequence(dout), sequence(u), sequence(delta), sequence(z), maps(B), maps(C)
    A, D, delta_bias, dlast_state = _small(A), _small(D), _small(delta_bias), _small(dlast_state)
    du, ddelta, dz = _like(u, order), _like(u, order), None if z is None else _like(u, order)
    # Parts, one per batch item or share; where there is but one it is the result.
    items, shares = (batch,) if batch > 1 else (), (splits,) if splits > 1 else ()
    dA, dB, dC = u.new_empty(*items, dim, state), u.new_empty(*shares, *B.shape), u.new_empty(*shares, *B.shape)
    dD, ddelta_bias = (None if x is None else u.new_empty(*items, dim) for x in (D, delta_bias))
    _call(
        'scan_backward',
        batch,
        dim,
        length,
        state,
        B.shape[1],
        slots,
        _at(order),
        delta_softplus,
        reverse,
        splits,
        threads,
        *_view(u),
        *_view(delta),
        *_view(z),
        *_view(dout),
        B.data_ptr(),
        *B.stride(),
        C.data_ptr(),
        *C.stride(),
        A.data_ptr(),
        _at(D),
        _at(delta_bias),
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
    gradients = du, ddelta, dA, dB, dC, dD, dz, ddelta_bias
    if dtypes == ALL_FLOAT32:
        return gradients
    return tuple(
        u.new_empty(0) if dtype is None else x if dtype == torch.float32 else x.to(dtype)
        for dtype, x in zip(dtypes, gradients)
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
