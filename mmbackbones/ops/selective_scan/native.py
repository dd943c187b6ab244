"""The selective scan on the CPU, in C++ (scan.cpp) behind a plain C interface: one build serves every version of torch.

The package's install builds the library for several instruction sets; the best that this CPU has is loaded.
"""

import ctypes
import functools
import struct
from pathlib import Path

import torch
from torch import Tensor

DEVICES = ('cpu',)
FLOAT64 = False

CHUNK, REST = 64, 16
# Best first, by torch's name of the capability.
LIBRARIES = {'AVX512': '_scan_avx512', 'AVX2': '_scan_avx2', 'baseline': '_scan_baseline'}


# The fields of ScanProblem in scan.cpp: integers and addresses of 64 bits. Packed, since an array of ctypes takes ten
# times as long to fill.
PROBLEM = struct.Struct('42q')

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


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    dtype, (batch, dim, length), state, (splits, threads) = u.dtype, u.shape, A.shape[1], _shares(u, B)
    u, delta, z = _sequence(u), _sequence(delta), _sequence(z)
    A, B, C, D, delta_bias = _small(A), _small(B), _small(C), _small(D), _small(delta_bias)
    out, last_state = u.new_empty(batch, dim, length), u.new_empty(batch, dim, state)
    saved = u.new_empty(saved_shape(batch, dim, length, state) if save else 0)
    _call('scan_forward',
        batch, dim, length, state, B.shape[1], delta_softplus, reverse, splits, threads,
        *_view(u), *_view(delta), *_view(z), *_view(None),
        _at(A), _at(B), _at(C), _at(D), _at(delta_bias),
        _at(out), _at(last_state), _at(saved if save else None),
        0, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    return out if dtype == torch.float32 else out.to(dtype), last_state, saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse):
    dtypes = [None if x is None else x.dtype for x in (u, delta, A, B, C, D, z, delta_bias)]
    (batch, dim, length), state, (splits, threads) = u.shape, A.shape[1], _shares(u, B)
    dout, u, delta, z = _sequence(dout), _sequence(u), _sequence(delta), _sequence(z)
    A, B, C, D, delta_bias = _small(A), _small(B), _small(C), _small(D), _small(delta_bias)
    dlast_state = _small(dlast_state)
    du, ddelta = u.new_empty(batch, dim, length), u.new_empty(batch, dim, length)
    dz = None if z is None else u.new_empty(batch, dim, length)
    # Parts, one per batch item or share; where there is but one it is the result.
    items, shares = (batch,) if batch > 1 else (), (splits,) if splits > 1 else ()
    dA, dB, dC = u.new_empty(*items, dim, state), u.new_empty(*shares, *B.shape), u.new_empty(*shares, *B.shape)
    dD, ddelta_bias = (None if x is None else u.new_empty(*items, dim) for x in (D, delta_bias))
    _call('scan_backward',
        batch, dim, length, state, B.shape[1], delta_softplus, reverse, splits, threads,
        *_view(u), *_view(delta), *_view(z), *_view(dout),
        _at(A), _at(B), _at(C), _at(D), _at(delta_bias),
        0, 0, _at(saved), _at(dlast_state),
        _at(du), _at(ddelta), _at(dz), _at(dA), _at(dD), _at(ddelta_bias), _at(dB), _at(dC),
    )  # fmt: skip
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
    if x.dtype != torch.float32:
        x = x.float()
    return x if 1 in x.stride()[1:] else x.contiguous()


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
    if getattr(load(isa()), function)(PROBLEM.pack(*fields)):
        raise MemoryError('selective scan: no memory for the working buffers of a thread')
