"""The selective scan of Mamba (Gu & Dao 2023, https://arxiv.org/abs/2312.00752): one function, explicit backends.

``reference`` is the specification, ``chunked`` runs wherever PyTorch does, ``native`` is C++ for the CPU, ``triton``
and ``mamba_ssm`` (the official kernel) are for CUDA. Each stands in a module of its own that offers

* ``DEVICES``: the device types that it serves (None: all), ``FLOAT64``: whether it takes float64, and ``INDEXED``:
  whether it scans in an order by itself;
* ``available() -> str | None``: None if it can be used, else the reason in one line;
* ``saved_shape(batch, dim, slots, state) -> tuple``: shape of the float32 tensor that the forward leaves for the
  backward (the states at chunk boundaries); ``(0,)`` if there is none. The arguments may be symbolic;
* ``forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save[, order]) -> (out, last_state, saved)``;
* ``backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse[, order])
  -> (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias)``.

Here u, delta, z, out are (B, D, L) and B, C (B, G, N, L); D, z, delta_bias and dlast_state may be None, and gradients
of absent inputs are empty tensors. Inputs may have any strides and differ in dtype; no dimension is empty. ``out``
has the dtype of u, ``last_state`` (B, D, N) is float32 (float64 if an input is), a gradient has the dtype of its
input, and everything returned is contiguous and fresh. With ``save`` False ``saved`` has shape (0,). The state at t =
L - 1, or t = 0 under ``reverse``, is the last state.

A backend with ``INDEXED`` takes the argument ``order``, None or (S,) int64 for S slots, see :func:`selective_scan`.
Where it is given, out, du, ddelta and dz are (B, D, L) views of contiguous (B, L, D). For the other backends ``op.py``
gathers the sequences and brings the results back.
"""

from mmbackbones.ops.selective_scan.dispatch import BackendChoice, selective_scan_backend
from mmbackbones.ops.selective_scan.op import selective_scan

__all__ = ['BackendChoice', 'selective_scan', 'selective_scan_backend']
