"""The public function and its operators, with what PyTorch must know of them: shapes, gradients, FLOPs."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan.dispatch import choose, get_backend, log_once

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


# Defined by hand: torch.library.custom_op does the same at twice the cost of a call, 0.1 ms forward and backward.
LIBRARY = torch.library.Library('mmbackbones', 'FRAGMENT')
INPUTS = 'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias'
for schema in (
    f'selective_scan({INPUTS}, bool delta_softplus, bool reverse, bool save, str backend) -> (Tensor, Tensor, Tensor)',
    f'selective_scan_backward(Tensor dout, Tensor? dlast_state, {INPUTS}, Tensor saved, bool delta_softplus, '
    f'bool reverse, str backend) -> ({", ".join(["Tensor"] * 8)})',
):
    LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
scan_op = torch.ops.mmbackbones.selective_scan.default
backward_op = torch.ops.mmbackbones.selective_scan_backward.default


@torch.library.impl(LIBRARY, 'selective_scan', 'CompositeExplicitAutograd')
def scan_kernel(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend):
    if u.numel() == 0:
        out, last_state, saved = scan_fake(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend)
        return out, last_state.zero_(), saved
    return get_backend(backend).forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save)


@torch.library.register_fake('mmbackbones::selective_scan', lib=LIBRARY)
def scan_fake(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend):
    (batch, dim, length), state = u.shape, A.shape[1]
    double = any(x is not None and x.dtype == torch.float64 for x in (u, delta, A, B, C, D, z, delta_bias))
    saved_shape = get_backend(backend).saved_shape(batch, dim, length, state) if save else (0,)
    return (
        u.new_empty(batch, dim, length),
        u.new_empty(batch, dim, state, dtype=torch.float64 if double else torch.float32),
        u.new_empty(saved_shape, dtype=torch.float32),
    )


@torch.library.impl(LIBRARY, 'selective_scan_backward', 'CompositeExplicitAutograd')
def backward_kernel(*inputs):
    dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse, backend = inputs
    if u.numel() == 0:
        return tuple(x.zero_() for x in backward_fake(*inputs))
    return get_backend(backend).backward(
        dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse
    )


@torch.library.register_fake('mmbackbones::selective_scan_backward', lib=LIBRARY)
def backward_fake(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse, backend):
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in (u, delta, A, B, C, D, z, delta_bias))


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            out, last_state, saved = scan_op(*inputs)
        ctx.save_for_backward(*inputs[:8], saved)
        ctx.options = inputs[8], inputs[9], inputs[11]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved)
        return out, last_state, saved

    @staticmethod
    def backward(ctx, dout, dlast_state, _):
        # Nearly always no second derivative is asked for, and then there is nothing to guard against it.
        backward = Scan.once if torch.is_grad_enabled() else Scan.gradients
        return backward(ctx, dout, dlast_state)

    @staticmethod
    def gradients(ctx, dout, dlast_state):
        *inputs, saved = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(inputs[0])
        gradients = backward_op(dout, dlast_state, *inputs, saved, *ctx.options)
        return *[None if x is None else g for g, x in zip(gradients, inputs)], None, None, None, None

    once = staticmethod(once_differentiable(gradients))


@torch.library.impl(LIBRARY, 'selective_scan', 'Autograd')
def scan_autograd(*inputs):
    if torch.is_grad_enabled():
        for x in inputs[:8]:
            if x is not None and x.requires_grad:
                return Scan.apply(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return scan_op(*inputs)


@register_flop_formula(torch.ops.mmbackbones.selective_scan)
def scan_flops(u_shape, delta_shape, A_shape, *args, out_shape=None, **kwargs) -> int:
    """9 B D L N + B D L, VMamba's count of floating-point operations, a multiply and an add counted apart."""
    batch, dim, length = u_shape
    return batch * dim * length * (9 * A_shape[1] + 1)


@register_flop_formula(torch.ops.mmbackbones.selective_scan_backward)
def backward_flops(
    dout_shape, dlast_state_shape, u_shape, delta_shape, A_shape, *args, out_shape=None, **kwargs
) -> int:
    return 2 * scan_flops(u_shape, delta_shape, A_shape)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    return_last_state: bool = False,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective state space model over a sequence (https://arxiv.org/abs/2312.00752, equation 2 and algorithm 2).

    With ``step = softplus(delta + delta_bias)``, from a zero state ``h``, for t in order (or from the end)::

        h = exp(step[t] * A) * h + step[t] * B[t] * u[t]
        y[t] = (sum_n C[t, n] * h[n] + D * u[t]) * silu(z[t])

    Tensors may be float32, float16 or bfloat16, in any mixture; float64 where the backend has it. State and step are
    float32 whatever the inputs (float64 if one of them is). Channel d reads group d // (D / G) of B and C.

    Args:
        u: (B, D, L), the input sequence.
        delta: (B, D, L), the step size before bias and softplus.
        A: (D, N), the continuous state matrix's diagonal, real, negative in a trained model.
        B: (B, N, L) or (B, G, N, L), input weights of the state; G divides D.
        C: the shape of B, output weights of the state.
        D: (D,), weight of the skip connection from u.
        z: (B, D, L), the gate, before its SiLU.
        delta_bias: (D,), added to delta.
        delta_softplus: whether the step goes through softplus (linear above 20, as in torch).
        reverse: scan from t = L - 1 to 0, by index, without a flipped copy.
        return_last_state: also return the state after the last step, that of t = 0 under ``reverse``.
        backend: ``'auto'`` (by device, see :func:`selective_scan_backend`; the environment variable
            ``MMBACKBONES_SCAN_BACKEND`` replaces it) or ``'reference'``, ``'chunked'``, ``'native'``, ``'triton'``,
            ``'mamba_ssm'``.

    Returns:
        y (B, D, L) in the dtype of u; with ``return_last_state`` also h (B, D, N), float32 or float64.

    Raises:
        InputError: a tensor has the wrong shape, dtype or device, or the backend is unknown or can't be used.
    """
    double = needs_grad = False
    device = u.device if isinstance(u, Tensor) else None
    for x in (u, delta, A, B, C, *[x for x in (D, z, delta_bias) if x is not None]):
        if not isinstance(x, Tensor) or x.dtype not in DTYPES or x.layout != torch.strided or x.device != device:
            _refuse_tensor(u, delta, A, B, C, D, z, delta_bias)
        double = double or x.dtype == torch.float64
        needs_grad = needs_grad or x.requires_grad
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    name = _choose(device.type, double, backend)
    if B.dim() == 3:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    save = needs_grad and torch.is_grad_enabled()
    out, last_state, _ = scan_op(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, name)
    return (out, last_state) if return_last_state else out


@torch.compiler.assume_constant_result
def _choose(device: str, float64: bool, backend: str) -> str:
    choice = choose(device, float64, backend)
    log_once(choice)
    return choice.name


def _refuse_tensor(u, delta, A, B, C, D, z, delta_bias) -> None:
    """Say which tensor is none that a scan takes, and why."""
    for name, x in dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias).items():
        if x is None and name in ('D', 'z', 'delta_bias'):
            continue
        if not isinstance(x, Tensor):
            raise InputError(f'selective_scan: {name} is {type(x).__name__}, expected a tensor')
        if x.layout != torch.strided:
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is {x.layout}, expected a dense tensor')
        if x.is_complex():
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is complex, expected real numbers')
        if x.dtype not in DTYPES:
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is {x.dtype}, expected a float of 16 to 64 bits')
        if x.device != u.device:
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is on {x.device}, expected {u.device} as u')


def _check_shapes(u, delta, A, B, C, D, z, delta_bias) -> None:
    shape = u.shape
    if len(shape) != 3:
        raise InputError(f'selective_scan: u has shape {tuple(shape)}, expected (B, D, L)')
    batch, dim, length = shape
    if A.dim() != 2 or A.shape[0] != dim or A.shape[1] == 0:
        raise InputError(f'selective_scan: A has shape {tuple(A.shape)}, expected (D, N) = ({dim}, N >= 1)')
    for name, x, expected in (
        ('delta', delta, (batch, dim, length)),
        ('z', z, (batch, dim, length)),
        ('D', D, (dim,)),
        ('delta_bias', delta_bias, (dim,)),
    ):
        if x is not None and x.shape != expected:
            raise InputError(f'selective_scan: {name} has shape {tuple(x.shape)}, expected {expected} after u')
    state, maps = A.shape[1], B.shape
    if len(maps) not in (3, 4) or maps[0] != batch or maps[-2] != state or maps[-1] != length:
        raise InputError(
            f'selective_scan: B has shape {tuple(maps)}, expected '
            f'(B, N, L) = {(batch, state, length)} or (B, G, N, L)'
        )
    if len(maps) == 4 and (maps[1] == 0 or dim % maps[1]):
        raise InputError(f'selective_scan: B {tuple(maps)} has {maps[1]} groups, expected a divisor of D = {dim}')
    if C.shape != maps:
        raise InputError(f'selective_scan: C has shape {tuple(C.shape)}, expected {tuple(maps)} as B')
