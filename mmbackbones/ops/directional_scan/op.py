"""The public function and its fused operators, with what PyTorch must know of them: shapes, gradients, FLOPs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from mmbackbones.errors import InputError
from mmbackbones.ops.directional_scan import triton as fused
from mmbackbones.ops.directional_scan.plain import plain
from mmbackbones.ops.scan_orders import ScanOrder
from mmbackbones.ops.selective_scan.dispatch import choose, log_once

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

LIBRARY = torch.library.Library('mmbackbones', 'FRAGMENT')
INPUTS = (
    'Tensor x, Tensor proj_weight, Tensor dt_weight, Tensor dt_bias, Tensor A, Tensor? D, Tensor? z, '
    'Tensor? conv_weight, Tensor? conv_bias'
)
COUNT = 9
for schema in (
    f'directional_scan({INPUTS}, Tensor?[] orders, bool[] reverse, ScalarType out_dtype, bool save) '
    f'-> ({", ".join(["Tensor"] * 4)})',
    f'directional_scan_backward(Tensor dout, {INPUTS}, Tensor kept, Tensor projected, Tensor saved, Tensor?[] orders, '
    f'bool[] reverse) -> ({", ".join(["Tensor"] * COUNT)})',
):
    LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
scan_op = torch.ops.mmbackbones.directional_scan.default
backward_op = torch.ops.mmbackbones.directional_scan_backward.default


@torch.library.impl(LIBRARY, 'directional_scan', 'CompositeExplicitAutograd')
def scan_kernel(x, *inputs):
    if x.numel() == 0:
        return tuple(y.zero_() for y in scan_fake(x, *inputs))
    with torch.autocast(x.device.type, enabled=False):
        return fused.forward(x, *inputs)


@torch.library.register_fake('mmbackbones::directional_scan', lib=LIBRARY)
def scan_fake(x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse, out_dtype, save):
    left = fused.shapes(x, dt_weight, A, z, orders, save)
    return (
        x.new_empty(x.shape, dtype=out_dtype),
        x.new_empty(left['kept'], dtype=out_dtype),
        x.new_empty(left['projected']),
        x.new_empty(left['saved'], dtype=torch.float32),
    )


@torch.library.impl(LIBRARY, 'directional_scan_backward', 'CompositeExplicitAutograd')
def backward_kernel(dout, x, *inputs):
    if x.numel() == 0:
        return tuple(y.zero_() for y in backward_fake(dout, x, *inputs))
    with torch.autocast(x.device.type, enabled=False):
        return fused.backward(dout, x, *inputs)


@torch.library.register_fake('mmbackbones::directional_scan_backward', lib=LIBRARY)
def backward_fake(dout, x, *inputs):
    return tuple(x.new_empty(0) if y is None else y.new_empty(y.shape) for y in (x, *inputs[: COUNT - 1]))


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            out, *left = scan_op(*inputs)
        ctx.orders, ctx.reverse = inputs[COUNT : COUNT + 2]
        ctx.save_for_backward(*inputs[:COUNT], *left)
        ctx.mark_non_differentiable(*left)
        ctx.set_materialize_grads(False)
        return out, *left

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, *_):
        if dout is None:
            return (None,) * (COUNT + 4)
        saved = ctx.saved_tensors  # once: a checkpoint recomputes them when asked
        gradients = backward_op(dout, *saved, ctx.orders, ctx.reverse)
        return *(None if x is None else g for g, x in zip(gradients, saved)), None, None, None, None


@torch.library.impl(LIBRARY, 'directional_scan', 'Autograd')
def scan_autograd(*inputs):
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs[:COUNT]):
        return Scan.apply(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return scan_op(*inputs)


@register_flop_formula(torch.ops.mmbackbones.directional_scan)
def scan_flops(
    x_shape,
    proj_shape,
    dt_shape,
    dt_bias_shape,
    A_shape,
    D_shape,
    z_shape,
    conv_shape,
    conv_bias_shape,
    orders,
    *args,
    out_shape=None,
    **kwargs,
) -> int:
    """What the plain composition counts: products, convolutions and, for each scan, 9 B D S N + B D S."""
    batch, tokens, dim = x_shape
    (_, rows, _), rank, state = proj_shape, dt_shape[2], A_shape[2]
    slots = sum(tokens if order is None else order[0] for order in orders)
    products = rows + rank + (0 if conv_shape is None else conv_shape[2])
    return batch * dim * slots * (2 * products + 9 * state + 1)


@register_flop_formula(torch.ops.mmbackbones.directional_scan_backward)
def backward_flops(
    dout_shape,
    x_shape,
    proj_shape,
    dt_shape,
    dt_bias_shape,
    A_shape,
    D_shape,
    z_shape,
    conv_shape,
    conv_bias_shape,
    kept_shape,
    projected_shape,
    saved_shape,
    orders,
    *args,
    out_shape=None,
    **kwargs,
) -> int:
    return 2 * scan_flops(
        x_shape, proj_shape, dt_shape, dt_bias_shape, A_shape, D_shape, z_shape, conv_shape, conv_bias_shape, orders
    )


def directional_scan(
    x: Tensor,
    proj_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    conv_weight: Tensor | None = None,
    conv_bias: Tensor | None = None,
    *,
    orders: Sequence[ScanOrder | None],
    reverse: Sequence[bool],
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Scan the same tokens in K directions, each with its own weights, and gate the sum.

    Direction k visits the tokens in its order, from the end under ``reverse``. With ``v`` its tokens in that order,
    ``u = silu(conv(v))``, or ``v`` itself without a convolution, causal as the direction goes, and
    ``low, B, C = proj_weight[k] @ u``, it adds :func:`selective_scan` of u with ``delta = dt_weight[k] @ low``, under
    softplus. The sum is multiplied by ``silu(z)``. In padding slots of an order v, low, B and C are zero.

    This is the inside of Vim's mixer (https://arxiv.org/abs/2401.09417, algorithm 1), with K = 2 and a convolution, and
    of VMamba's (https://arxiv.org/abs/2401.10166, figure 3), with K = 4 and none. On CUDA it is fused, if the selective
    scan is Triton's there; elsewhere it is composed of matrix products and :func:`selective_scan`.

    Tensors may be float32, float16 or bfloat16, in any mixture, or all float64 where the backend has it. The products
    run in the dtype of x; state and step are float32.

    Args:
        x: (B, L, D), the tokens.
        proj_weight: (K, R + 2 N, D), projections to the low rank of the step, to B and to C.
        dt_weight: (K, D, R), from low rank to step.
        dt_bias: (K, D), joins the step before its softplus.
        A: (K, D, N), the continuous state matrices' diagonals, real and negative.
        D: (K, D), weights of the skip connections from u.
        z: (B, L, D), the gate before its SiLU.
        conv_weight: (K, D, W), depthwise kernels, W >= 1; the last tap is the token itself.
        conv_bias: (K, D).
        orders: for each direction the order in which it visits the tokens, each of which has one slot; None: as they
            lie.
        reverse: for each direction whether it goes from the end.
        out_dtype: dtype of the result, at least as wide as that of x; None: that of x.
        backend: see :func:`selective_scan`.

    Returns:
        y (B, L, D) in ``out_dtype``.

    Raises:
        InputError: a tensor has the wrong shape, dtype or device, or the backend is unknown or can't be used.
    """
    tensors = dict(
        x=x,
        proj_weight=proj_weight,
        dt_weight=dt_weight,
        dt_bias=dt_bias,
        A=A,
        D=D,
        z=z,
        conv_weight=conv_weight,
        conv_bias=conv_bias,
    )
    _check(tensors, orders, reverse, out_dtype)
    out_dtype, reverse = out_dtype or x.dtype, list(reverse)
    name = _choose(x.device.type, any(t is not None and t.dtype == torch.float64 for t in tensors.values()), backend)
    if name != 'triton':
        return plain(*tensors.values(), orders, reverse, out_dtype, name)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors.values())
    orders = [None if order is None else order.order for order in orders]
    return scan_op(*tensors.values(), orders, reverse, out_dtype, save)[0]


def directional_scan_is_fused(x: Tensor) -> bool:
    """Whether :func:`directional_scan` of such tokens runs as one operator, channels last, and not composed of others.

    Raises:
        InputError: the selective scan has no backend for them.
    """
    return _choose(x.device.type, x.dtype == torch.float64, 'auto') == 'triton'


@torch.compiler.assume_constant_result
def _choose(device: str, float64: bool, backend: str) -> str:
    choice = choose(device, float64, backend)
    log_once(choice)
    return choice.name


def _check(tensors: dict[str, Tensor | None], orders, reverse, out_dtype) -> None:
    x = tensors['x']
    for name, tensor in tensors.items():
        if tensor is None and name in ('D', 'z', 'conv_weight', 'conv_bias'):
            continue
        if not isinstance(tensor, Tensor):
            raise InputError(f'directional_scan: {name} is {type(tensor).__name__}, expected a tensor')
        shape = tuple(tensor.shape)
        if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            raise InputError(
                f'directional_scan: {name} {shape} is {tensor.dtype} and {tensor.layout}, expected a '
                'dense tensor of floats of 16 to 64 bits'
            )
        if tensor.device != x.device:
            raise InputError(f'directional_scan: {name} {shape} is on {tensor.device}, expected {x.device} as x')
    if x.dim() != 3:
        raise InputError(f'directional_scan: x has shape {tuple(x.shape)}, expected (B, L, D)')
    (batch, tokens, dim), A, dt_weight = x.shape, tensors['A'], tensors['dt_weight']
    if A.dim() != 3 or A.shape[1] != dim or A.numel() == 0:
        raise InputError(f'directional_scan: A has shape {tuple(A.shape)}, expected (K >= 1, D, N >= 1) with D = {dim}')
    directions, state = A.shape[0], A.shape[2]
    if dt_weight.dim() != 3 or dt_weight.shape[:2] != (directions, dim) or dt_weight.shape[2] == 0:
        raise InputError(
            f'directional_scan: dt_weight has shape {tuple(dt_weight.shape)}, expected '
            f'(K, D, R >= 1) with (K, D) = {(directions, dim)}'
        )
    conv_weight = tensors['conv_weight']
    taps = 1
    if conv_weight is not None:
        if conv_weight.dim() != 3 or conv_weight.shape[2] == 0:
            raise InputError(
                f'directional_scan: conv_weight has shape {tuple(conv_weight.shape)}, expected '
                f'(K, D, W >= 1) with (K, D) = {(directions, dim)}'
            )
        taps = conv_weight.shape[2]
    elif tensors['conv_bias'] is not None:
        raise InputError('directional_scan: conv_bias is given without conv_weight')
    for name, shape in dict(
        proj_weight=(directions, dt_weight.shape[2] + 2 * state, dim),
        dt_bias=(directions, dim),
        D=(directions, dim),
        z=(batch, tokens, dim),
        conv_weight=(directions, dim, taps),
        conv_bias=(directions, dim),
    ).items():
        if tensors[name] is not None and tensors[name].shape != shape:
            raise InputError(f'directional_scan: {name} has shape {tuple(tensors[name].shape)}, expected {shape}')
    for name, options in (('orders', orders), ('reverse', reverse)):
        if len(options) != directions:
            raise InputError(f'directional_scan: {name} has {len(options)} entries, expected {directions} as A')
    for order in orders:
        if order is None:
            continue
        if order.inverse.shape != (tokens,) or order.order.dim() != 1 or len(order.order) < tokens:
            raise InputError(
                f'directional_scan: an order has {tuple(order.order.shape)} slots for '
                f'{tuple(order.inverse.shape)} tokens, expected {tokens} tokens as x has'
            )
        if order.order.device != x.device or order.order.dtype != torch.int64:
            raise InputError(
                f'directional_scan: an order is {order.order.dtype} on {order.order.device}, expected '
                f'torch.int64 on {x.device} as x'
            )
    if out_dtype is not None and (out_dtype not in DTYPES or torch.promote_types(out_dtype, x.dtype) != out_dtype):
        raise InputError(f'directional_scan: out_dtype is {out_dtype}, expected one as wide as x, {x.dtype}')
