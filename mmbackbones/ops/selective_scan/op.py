"""The public function and its operators, with what PyTorch must know of them: shapes, gradients, FLOPs."""

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from mmbackbones.errors import InputError
from mmbackbones.ops.scan_orders import ScanOrder, inverse_order, to_map, to_sequence
from mmbackbones.ops.selective_scan.backend import ScanArguments
from mmbackbones.ops.selective_scan.checks import DTYPES, check_order, check_positions, check_shapes, refuse_tensor
from mmbackbones.ops.selective_scan.dispatch import chosen, get_backend

# Defined by hand: torch.library.custom_op does the same at twice the cost of a call, 0.1 ms forward and backward.
LIBRARY = torch.library.Library('mmbackbones', 'FRAGMENT')
ARGUMENTS = (
    'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, '
    'bool delta_softplus, bool reverse, Tensor? order'
)
COUNT = len(ScanArguments._fields)
for schema in (
    f'selective_scan({ARGUMENTS}, bool save, str backend) -> (Tensor, Tensor, Tensor)',
    f'selective_scan_backward({ARGUMENTS}, Tensor dout, Tensor? dlast_state, Tensor saved, str backend) '
    f'-> ({", ".join(["Tensor"] * 8)})',
):
    LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
scan_op = torch.ops.mmbackbones.selective_scan.default
backward_op = torch.ops.mmbackbones.selective_scan_backward.default


@torch.library.impl(LIBRARY, 'selective_scan', 'CompositeExplicitAutograd')
def scan_kernel(*inputs):
    scan, save, backend = ScanArguments(*inputs[:COUNT]), *inputs[COUNT:]
    if scan.u.numel() == 0:
        out, last_state, saved = scan_fake(*inputs)
        return out, last_state.zero_(), saved
    module = get_backend(backend)
    if module.INDEXED or scan.order is None:
        return module.forward(scan, save)
    scan, order = _gathered(scan, scan.order)
    out, *rest = module.forward(scan, save)
    return _channels_last(to_map(out, order)), *rest


@torch.library.register_fake('mmbackbones::selective_scan', lib=LIBRARY)
def scan_fake(*inputs):
    scan, save, backend = ScanArguments(*inputs[:COUNT]), *inputs[COUNT:]
    (batch, dim, length), state = scan.u.shape, scan.A.shape[1]
    double = any(x is not None and x.dtype == torch.float64 for x in scan.tensors)
    slots = length if scan.order is None else scan.order.shape[0]
    saved_shape = get_backend(backend).saved_shape(batch, dim, slots, state) if save else (0,)
    return (
        _new_like(scan.u, scan.order),
        scan.u.new_empty(batch, dim, state, dtype=torch.float64 if double else torch.float32),
        scan.u.new_empty(saved_shape, dtype=torch.float32),
    )


@torch.library.impl(LIBRARY, 'selective_scan_backward', 'CompositeExplicitAutograd')
def backward_kernel(*inputs):
    scan, dout, dlast_state, saved, backend = ScanArguments(*inputs[:COUNT]), *inputs[COUNT:]
    if scan.u.numel() == 0:
        return tuple(x.zero_() for x in backward_fake(*inputs))
    module = get_backend(backend)
    if module.INDEXED or scan.order is None:
        return module.backward(scan, dout, dlast_state, saved)
    scan, order = _gathered(scan, scan.order)
    gradients = list(module.backward(scan, to_sequence(dout, order), dlast_state, saved))
    for name in GATHERED:
        i = ScanArguments._fields.index(name)
        x = scan.tensors[i]
        if x is not None:
            gradients[i] = to_map(gradients[i], order)
            if x.dim() == 3:
                gradients[i] = _channels_last(gradients[i])
    return tuple(gradients)


@torch.library.register_fake('mmbackbones::selective_scan_backward', lib=LIBRARY)
def backward_fake(*inputs):
    scan = ScanArguments(*inputs[:COUNT])
    return tuple(
        scan.u.new_empty(0)
        if x is None
        else _new_like(x, scan.order)
        if name in ('u', 'delta', 'z')
        else x.new_empty(x.shape)
        for name, x in zip(scan._fields, scan.tensors)
    )


constant_choice = torch.compiler.assume_constant_result(chosen)

# What an order puts in order.
GATHERED = ('u', 'delta', 'B', 'C', 'z')


def _gathered(scan: ScanArguments, slots: Tensor) -> tuple[ScanArguments, ScanOrder]:
    """The scan of a copy in the order of ``slots``, and that order."""
    length = scan.u.shape[2]
    if slots.device.type == 'cpu':  # elsewhere a look at the values would wait for the device
        check_positions(slots, length)
    order = ScanOrder(slots, inverse_order(slots, length))
    given = {name: x for name in GATHERED if (x := getattr(scan, name)) is not None}
    return scan._replace(order=None, **{name: to_sequence(x, order) for name, x in given.items()}), order


def _new_like(x: Tensor, order: Tensor | None) -> Tensor:
    """A new (B, D, L); with an order channels lie next to each other."""
    batch, dim, length = x.shape
    return x.new_empty(batch, dim, length) if order is None else x.new_empty(batch, length, dim).transpose(1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2).copy_(x)


class SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            out, last_state, saved = scan_op(*inputs)
        scan = ScanArguments(*inputs[:COUNT])
        ctx.save_for_backward(*scan.tensors, scan.order, saved)
        ctx.options = scan.delta_softplus, scan.reverse
        ctx.backend = inputs[-1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved)
        return out, last_state, saved

    @staticmethod
    def backward(ctx, dout, dlast_state, _):
        # Nearly always no second derivative is asked for, and then there is nothing to guard against it.
        backward = SelectiveScan.once if torch.is_grad_enabled() else SelectiveScan.gradients
        return backward(ctx, dout, dlast_state)

    @staticmethod
    def gradients(ctx, dout, dlast_state):
        *tensors, order, saved = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(tensors[0])
        gradients = backward_op(*tensors, *ctx.options, order, dout, dlast_state, saved, ctx.backend)
        return *[None if x is None else g for g, x in zip(gradients, tensors)], None, None, None, None, None

    once = staticmethod(once_differentiable(gradients))


@torch.library.impl(LIBRARY, 'selective_scan', 'Autograd')
def scan_autograd(*inputs):
    if torch.is_grad_enabled():
        for x in inputs[:8]:
            if x is not None and x.requires_grad:
                return SelectiveScan.apply(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return scan_op(*inputs)


@register_flop_formula(torch.ops.mmbackbones.selective_scan)
def scan_flops(*shapes: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """9 B D S N + B D S over S slots, VMamba's count of floating-point operations: a multiply-add is two."""
    scan = ScanArguments(*shapes[:COUNT])
    batch, dim, length = scan.u
    slots = length if scan.order is None else scan.order[0]
    return batch * dim * slots * (9 * scan.A[1] + 1)


@register_flop_formula(torch.ops.mmbackbones.selective_scan_backward)
def backward_flops(*shapes: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * scan_flops(*shapes)


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    order: Tensor | None = None,
    return_last_state: Literal[False] = False,
    backend: str = 'auto',
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    order: Tensor | None = None,
    return_last_state: Literal[True],
    backend: str = 'auto',
) -> tuple[Tensor, Tensor]: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    order: Tensor | None = None,
    return_last_state: bool,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    order: Tensor | None = None,
    return_last_state: bool = False,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective state space model over a sequence (https://arxiv.org/abs/2312.00752, equation 2 and algorithm 2).

    The state ``h`` starts at zero. With ``dt = softplus(delta + delta_bias)``, each t in turn computes::

        h = exp(dt[t] * A) * h + dt[t] * B[t] * u[t]
        y[t] = (sum_n C[t, n] * h[n] + D * u[t]) * silu(z[t])

    With ``order`` the scan visits S >= L slots. Slot s is position ``order[s]`` of u, delta, B, C, z and y. A slot with
    ``order[s] == -1`` is padding. It reads zeros and writes nothing, so the state only decays there. The result equals
    the scan of a sequence that is gathered by the order and then brought back. The scan is fastest on (B, D, L) views
    with contiguous channels. The layout of y and of the gradients of u, delta and z is the same.

    With ``C=None``, N = 1 and neither D nor z, y is the state itself: ``y[t] = h[0]`` after step t. Mixers that fuse
    the states over space before they read them take it, such as Spatial-Mamba's (https://arxiv.org/abs/2410.15091).
    Its dtype is that of u, like that of every output: states of half-precision inputs are rounded.

    Tensors may mix float32, float16 and bfloat16, and are float64 where the backend supports it. State and dt are
    float32, or float64 if one input is. Channel d reads group d // (D / G) of B and C.

    Args:
        u: (B, D, L), the input sequence.
        delta: (B, D, L), dt before bias and softplus.
        A: (D, N), diagonal of the continuous state matrix, real, negative in a trained model.
        B: (B, N, L) or (B, G, N, L), input weights of the state. G divides D.
        C: output weights of the state, with the shape of B. None: 1, where each channel has a single state, N = 1.
        D: (D,), weight of the skip connection from u.
        z: (B, D, L), the gate, before its SiLU.
        delta_bias: (D,), added to delta.
        delta_softplus: apply softplus to dt (linear above 20, as in torch).
        reverse: scan from t = L - 1 to 0, or from the last slot to the first. Nothing is flipped or copied.
        order: (S,) int64 on u's device. Each position from 0 to L - 1 has exactly one slot, the other slots are -1.
            Values are checked on the CPU only, because a check elsewhere would wait for the device.
        return_last_state: also return the state after the last t, which is t = 0 under ``reverse``.
        backend: ``'naive'``, ``'chunk'``, ``'cpu'``, ``'triton'``, ``'mamba_ssm'``, or ``'auto'``. ``'auto'`` follows
            the environment variable ``MMBACKBONES_SCAN_BACKEND``, else the device: see :func:`selective_scan_backend`.

    Returns:
        y (B, D, L) in the dtype of u. With ``return_last_state`` also h (B, D, N), float32 or float64.

    Raises:
        InputError: a tensor has the wrong shape, dtype or device; a position is missing in the order or occurs twice;
            C is None with more than one state; the backend is unknown or cannot be used.
    """
    double = needs_grad = False
    device = u.device if isinstance(u, Tensor) else None
    states = C is None
    if C is None:  # ones are as small as B: one number per token for all channels of a group
        C = torch.ones_like(B) if isinstance(B, Tensor) else B  # what is no tensor is refused below
    for x in (u, delta, A, B, C, *[x for x in (D, z, delta_bias) if x is not None]):
        if not isinstance(x, Tensor) or x.dtype not in DTYPES or x.layout != torch.strided or x.device != device:
            refuse_tensor(dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias))
        double = double or x.dtype == torch.float64
        needs_grad = needs_grad or x.requires_grad
    check_shapes(u, delta, A, B, C, D, z, delta_bias)
    if states and A.shape[1] != 1:
        raise InputError(
            f'selective_scan: C is None, so that the states are returned, and A has shape {tuple(A.shape)}, '
            'expected one state per channel, (D, 1)'
        )
    if order is not None:
        check_order(order, u)
    name = constant_choice(u.device.type, double, backend)
    if B.dim() == 3:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    save = needs_grad and torch.is_grad_enabled()
    out, last_state, _ = scan_op(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, order, save, name)
    return (out, last_state) if return_last_state else out
