"""The selective scan on the CPU, in C++ (scan.cpp) behind a plain C interface: one build serves every version of torch.

The package's install builds the library for several instruction sets; the best that this CPU has is loaded.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

DEVICES = ('cpu',)
FLOAT64 = False

CHUNK = 64
# Best first, by torch's name of the capability.
LIBRARIES = {'AVX512': '_scan_avx512', 'AVX2': '_scan_avx2', 'baseline': '_scan_baseline'}


class View(ctypes.Structure):
    _fields_ = [('data', ctypes.c_void_p)] + [(name, ctypes.c_int64) for name in ('batch', 'channel', 'step')]


class ScanProblem(ctypes.Structure):
    """Mirrors the struct in scan.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ('batch', 'dim', 'length', 'state', 'groups')),
        *((name, ctypes.c_int64) for name in ('softplus', 'reverse', 'splits', 'threads')),
        *((name, View) for name in ('u', 'delta', 'z', 'dout')),
        *((name, ctypes.c_void_p) for name in ('A', 'B', 'C', 'D', 'delta_bias')),
        *((name, ctypes.c_void_p) for name in ('out', 'last_state', 'saved', 'dlast_state')),
        *((name, ctypes.c_void_p) for name in ('du', 'ddelta', 'dz', 'dA', 'dD', 'ddelta_bias', 'dB', 'dC')),
    ]


@functools.cache
def load(isa: str) -> ctypes.CDLL | None:
    """The library for an instruction set, None where it was not built."""
    for path in Path(__file__).parent.glob(f'{LIBRARIES[isa]}.*'):
        if path.suffix in ('.so', '.dylib'):
            library = ctypes.CDLL(str(path))
            for name in ('scan_forward', 'scan_backward'):
                getattr(library, name).argtypes = [ctypes.POINTER(ScanProblem)]
            library.scan_exponentials.argtypes = [ctypes.c_int64]
            library.scan_exponentials.restype = ctypes.c_float
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
    return batch, (length + CHUNK - 1) // CHUNK, state, dim


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    dtype = u.dtype
    u, delta, z = (_sequence(x) for x in (u, delta, z))
    A, B, C, D, delta_bias = (_small(x) for x in (A.T, B, C, D, delta_bias))
    (batch, dim, length), state = u.shape, len(A)
    out, last_state = u.new_empty(batch, dim, length), u.new_empty(batch, dim, state)
    saved = u.new_empty(saved_shape(batch, dim, length, state) if save else 0)
    _call('scan_forward', u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse,
          out=out, last_state=last_state, saved=saved if save else None)  # fmt: skip
    return out.to(dtype), last_state, saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse):
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    u, delta, z, dout = (_sequence(x) for x in (u, delta, z, dout))
    A, B, C, D, delta_bias, dlast_state = (_small(x) for x in (A.T, B, C, D, delta_bias, dlast_state))
    (batch, dim, length), state, splits = u.shape, len(A), _splits(u, B)
    du, ddelta = (u.new_empty(batch, dim, length) for _ in range(2))
    dz = u.new_empty(batch, dim, length) if z is not None else None
    dA, dB, dC = u.new_empty(batch, state, dim), *(u.new_empty(splits, *B.shape) for _ in range(2))
    dD, ddelta_bias = (u.new_empty(batch, dim) for _ in range(2))
    _call('scan_backward', u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, dout=dout, saved=saved,
          dlast_state=dlast_state, du=du, ddelta=ddelta, dz=dz, dA=dA, dB=dB, dC=dC, dD=dD,
          ddelta_bias=ddelta_bias)  # fmt: skip
    gradients = (du, ddelta, _total(dA).T, _total(dB), _total(dC), _total(dD), dz, _total(ddelta_bias))
    return tuple(u.new_empty(0) if x is None else g.to(x.dtype).contiguous() for x, g in zip(inputs, gradients))


def _sequence(x: Tensor | None) -> Tensor | None:
    """(B, D, L) as the kernel reads it: float32, steps or channels next to each other."""
    if x is None:
        return None
    x = x.float()
    return x if 1 in x.stride()[1:] else x.contiguous()


def _small(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _total(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _splits(u: Tensor, B: Tensor) -> int:
    """Into how many shares the channels of a group are cut, for every thread to have one."""
    batch, groups = B.shape[:2]
    return min(-(-torch.get_num_threads() // (batch * groups)), -(-u.shape[1] // (16 * groups)))


def _call(function, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, dout=None, **outputs):
    sizes = (*u.shape, len(A), B.shape[1])
    problem = ScanProblem(*sizes, delta_softplus, reverse, _splits(u, B), torch.get_num_threads())
    for name, x in dict(u=u, delta=delta, z=z, dout=dout).items():
        if x is not None:
            setattr(problem, name, View(x.data_ptr(), *x.stride()))
    for name, x in dict(A=A, B=B, C=C, D=D, delta_bias=delta_bias, **outputs).items():
        if x is not None:
            setattr(problem, name, x.data_ptr())
    if getattr(load(isa()), function)(problem):
        raise MemoryError('selective scan: no memory for the working buffers of a thread')
