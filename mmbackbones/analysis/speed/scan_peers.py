"""How others compute the selective scan: their operations, written anew for comparison, in float32 like theirs.

Each takes (u, delta, A, B, C, D, z, delta_bias) with softplus, B and C of shape (B, G, N, L), and returns y (B, D, L).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mamba_ssm_loop(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The operations of mamba_ssm's ``selective_scan_ref``: all decays and inputs, then a loop over slices of them.

    Each slice's gradient is as large as the whole, so the backward is quadratic in the length.
    """
    dtype, repeats = u.dtype, u.shape[1] // B.shape[1]
    u, step, B, C = u.float(), F.softplus(delta.float() + delta_bias[:, None].float()), B.float(), C.float()
    decays = torch.exp(torch.einsum('bdl,dn->bdln', step, A))
    if B.shape[1] == 1:
        B, C = B[:, 0], C[:, 0]
        inputs = torch.einsum('bdl,bnl,bdl->bdln', step, B, u)
    else:
        B, C = B.repeat_interleave(repeats, dim=1), C.repeat_interleave(repeats, dim=1)
        inputs = torch.einsum('bdl,bdnl,bdl->bdln', step, B, u)
    state, y = A.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        state = decays[:, :, t] * state + inputs[:, :, t]
        y.append(torch.einsum('bdn,bn->bd' if C.dim() == 3 else 'bdn,bdn->bd', state, C[..., t]))
    return _finish(torch.stack(y, dim=2), u, D, z, dtype)


def hugging_face_loop(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The operations of the loop in Hugging Face's Mamba mixer; one group only."""
    decays, inputs, step_C, dtype = _hugging_face_terms(u, delta, A, B, C, delta_bias)
    state, y = A.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        state = decays[:, :, t, :] * state + inputs[:, :, t, :]
        y.append(torch.matmul(state, step_C[:, t, :].unsqueeze(-1))[:, :, 0])
    return _finish(torch.stack(y, dim=-1), u.float(), D, z, dtype)


def mambapy_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The parallel scan of mambapy (https://github.com/alxndrTL/mamba.py), as Hugging Face's mixer calls it."""
    from mambapy.pscan import pscan

    decays, inputs, step_C, dtype = _hugging_face_terms(u, delta, A, B, C, delta_bias)
    states = pscan(decays.transpose(1, 2), inputs.transpose(1, 2))  # [B, L, D, N]
    y = (states @ step_C.unsqueeze(-1)).squeeze(3).transpose(1, 2)
    return _finish(y, u.float(), D, z, dtype)


def mamba_ssm_cuda(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """mamba_ssm's own CUDA function, on its own, without our wrapper."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus=True)


def _hugging_face_terms(u, delta, A, B, C, delta_bias):
    step = F.softplus(delta.float() + delta_bias[:, None].float())
    B, C = (m[:, 0].float().transpose(1, 2) for m in (B, C))  # [B, 1, N, L] -> [B, L, N]
    decays = torch.exp(A[None, :, None, :] * step[:, :, :, None])
    inputs = step[:, :, :, None] * B[:, None, :, :] * u[:, :, :, None].float()
    return decays, inputs, C, u.dtype


def _finish(y: Tensor, u: Tensor, D: Tensor, z: Tensor | None, dtype: torch.dtype) -> Tensor:
    y = y + u * D[:, None]
    return (y if z is None else y * F.silu(z.float())).to(dtype)
