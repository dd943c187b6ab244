"""The public function and its fused operators, with what PyTorch must know of them: shapes, gradients, FLOPs."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from mmbackbones.errors import InputError
from mmbackbones.ops.directional_scan import composed
from mmbackbones.ops.directional_scan import triton as fused
from mmbackbones.ops.directional_scan.arguments import DirectionalArguments, Weights
from mmbackbones.ops.scan_orders import ScanOrder
from mmbackbones.ops.selective_scan.checks import DTYPES
from mmbackbones.ops.selective_scan.dispatch import DIRECTIONAL_ENVIRONMENT, asked_for
from mmbackbones.ops.selective_scan.op import constant_choice

OPTIONAL = ('D', 'z', 'conv_weight', 'conv_bias')
IMPLEMENTATIONS = ('composed', 'triton')

LIBRARY = torch.library.Library('mmbackbones', 'FRAGMENT')
ARGUMENTS = (
    'Tensor x, Tensor proj_weight, Tensor dt_weight, Tensor dt_bias, Tensor A, Tensor? D, Tensor? z, '
    'Tensor? conv_weight, Tensor? conv_bias, Tensor?[] orders, bool[] reverse'
)
COUNT = len(DirectionalArguments._fields)
TENSORS = 9
for schema in (
    f'directional_scan({ARGUMENTS}, ScalarType out_dtype, bool save) -> ({", ".join(["Tensor"] * 4)})',
    f'directional_scan_backward({ARGUMENTS}, Tensor dout, Tensor kept, Tensor projected, Tensor saved) '
    f'-> ({", ".join(["Tensor"] * TENSORS)})',
):
    LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
scan_op = torch.ops.mmbackbones.directional_scan.default
backward_op = torch.ops.mmbackbones.directional_scan_backward.default


@torch.library.impl(LIBRARY, 'directional_scan', 'CompositeExplicitAutograd')
def scan_kernel(*inputs):
    scan = DirectionalArguments(*inputs[:COUNT])
    if scan.x.numel() == 0:
        return tuple(y.zero_() for y in scan_fake(*inputs))
    with torch.autocast(scan.x.device.type, enabled=False):
        return fused.forward(scan, *inputs[COUNT:])


@torch.library.register_fake('mmbackbones::directional_scan', lib=LIBRARY)
def scan_fake(*inputs):
    scan, out_dtype, save = DirectionalArguments(*inputs[:COUNT]), *inputs[COUNT:]
    left, x = fused.shapes(scan, save), scan.x
    return (
        x.new_empty(x.shape, dtype=out_dtype),
        x.new_empty(left['kept'], dtype=out_dtype),
        x.new_empty(left['projected'], dtype=torch.float32),
        x.new_empty(left['saved'], dtype=torch.float32),
    )


@torch.library.impl(LIBRARY, 'directional_scan_backward', 'CompositeExplicitAutograd')
def backward_kernel(*inputs):
    scan = DirectionalArguments(*inputs[:COUNT])
    if scan.x.numel() == 0:
        return tuple(y.zero_() for y in backward_fake(*inputs))
    with torch.autocast(scan.x.device.type, enabled=False):
        return fused.backward(scan, *inputs[COUNT:])


@torch.library.register_fake('mmbackbones::directional_scan_backward', lib=LIBRARY)
def backward_fake(x, *inputs):
    return tuple(x.new_empty(0) if y is None else y.new_empty(y.shape) for y in (x, *inputs[: TENSORS - 1]))


class DirectionalScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            out, *left = scan_op(*inputs)
        ctx.options = inputs[TENSORS:COUNT]
        ctx.save_for_backward(*inputs[:TENSORS], *left)
        ctx.mark_non_differentiable(*left)
        ctx.set_materialize_grads(False)
        return out, *left

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, *_):
        if dout is None:
            return (None,) * (COUNT + 2)
        saved = ctx.saved_tensors  # once: a checkpoint recomputes them when asked
        tensors, left = saved[:TENSORS], saved[TENSORS:]
        gradients = backward_op(*tensors, *ctx.options, dout, *left)
        return *(None if x is None else g for g, x in zip(gradients, tensors)), None, None, None, None


@torch.library.impl(LIBRARY, 'directional_scan', 'Autograd')
def scan_autograd(*inputs):
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs[:TENSORS]):
        return DirectionalScan.apply(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return scan_op(*inputs)


@register_flop_formula(torch.ops.mmbackbones.directional_scan)
def scan_flops(*shapes: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """What the composition counts: products, convolutions and, for each scan, 9 B D S N + B D S."""
    scan = DirectionalArguments(*shapes[:COUNT])
    batch, tokens, dim = scan.x
    (_, rows, _), rank, state = scan.proj_weight, scan.dt_weight[2], scan.A[2]
    slots = sum(tokens if order is None else order[0] for order in scan.orders)
    products = rows + rank + (0 if scan.conv_weight is None else scan.conv_weight[2])
    return batch * dim * slots * (2 * products + 9 * state + 1)


@register_flop_formula(torch.ops.mmbackbones.directional_scan_backward)
def backward_flops(*shapes: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * scan_flops(*shapes)


def directional_scan(
    x: Tensor,
    proj_weight: Weights,
    dt_weight: Weights,
    dt_bias: Weights,
    A: Weights,
    D: Weights | None = None,
    z: Tensor | None = None,
    conv_weight: Weights | None = None,
    conv_bias: Weights | None = None,
    *,
    orders: Sequence[ScanOrder | None],
    reverse: Sequence[bool],
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Scan the same tokens in K directions, each with its own weights, and gate the sum.

    Direction k visits the tokens in its order, or in its order from the end under ``reverse``::

        v = tokens in that order
        u = silu(conv(v))                       # causal along the direction; u = v without a convolution
        low, B, C = split(proj_weight[k] @ u)
        y += selective_scan(u, dt_weight[k] @ low, A[k], B, C, D[k], delta_bias=dt_bias[k], delta_softplus=True)

    The sum over all directions is multiplied by ``silu(z)``. In padding slots of an order, v, low, B and C are zero.

    Vim's mixer (https://arxiv.org/abs/2401.09417, algorithm 1) has K = 2 and a convolution, VMamba's
    (https://arxiv.org/abs/2401.10166, figure 3) K = 4 and no convolution. If the selective scan runs on Triton, all is
    one operator. Otherwise it is composed of matrix products and :func:`selective_scan`.
    ``MMBACKBONES_DIRECTIONAL_SCAN=composed`` forces the composition, see :func:`use_scans`. :func:`project_tokens`
    lays tokens out as they are read fastest.

    Weights are stacked or lists of K tensors. Directions whose lists hold the same tensors share their projections.

    Tensors may mix float32, float16 and bfloat16, or are all float64 where the backend supports it. The products run in
    the dtype of x. State and dt are float32.

    Args:
        x: (B, L, D), the tokens.
        proj_weight: (K, R + 2 N, D), projections to the low rank of dt, to B and to C.
        dt_weight: (K, D, R), projection from the low rank to dt.
        dt_bias: (K, D), added to dt before its softplus.
        A: (K, D, N), diagonals of the continuous state matrices, real and negative.
        D: (K, D), weights of the skip connections from u.
        z: (B, L, D), the gate before its SiLU.
        conv_weight: (K, D, W), depthwise kernels, W >= 1. The last tap is the token itself.
        conv_bias: (K, D).
        orders: the order of each direction, in which each token has one slot. None: the order of x.
        reverse: for each direction, whether it starts at the end.
        out_dtype: dtype of the result, at least as wide as that of x. None: that of x.
        backend: see :func:`selective_scan`.

    Returns:
        y (B, L, D) in ``out_dtype``.

    Raises:
        InputError: a tensor has the wrong shape, dtype or device, or the backend is unknown or can't be used.
    """
    scan = DirectionalArguments(
        x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, list(orders), list(reverse)
    )
    double, needs_grad = _check(scan, out_dtype)
    out_dtype = out_dtype or x.dtype
    backend = constant_choice(x.device.type, double, backend)
    save = torch.is_grad_enabled() and needs_grad
    if _implementation(backend) == 'composed':
        return composed.forward(scan, out_dtype, backend, save)
    orders = [None if order is None else order.order for order in orders]
    return scan_op(*scan.stacked()._replace(orders=orders), out_dtype, save)[0]


def project_tokens(x: Tensor, weight: Tensor, bias: Tensor | None = None, parts: int = 1) -> tuple[Tensor, ...]:
    """``F.linear`` of tokens (B, L, C), cut into equal parts (B, L, E) such as tokens and gate.

    The layout of the parts is the one that :func:`directional_scan` reads fastest: channels next to each other for
    Triton's kernels, tokens next to each other for the composition.

    Raises:
        InputError: the selective scan has no backend for them.
    """
    if _implementation(constant_choice(x.device.type, x.dtype == torch.float64, 'auto')) == 'triton':
        return F.linear(x, weight, bias).chunk(parts, dim=2)
    return composed.project_tokens(x, weight, bias, parts)


@torch.compiler.assume_constant_result
def _implementation(backend: str) -> str:
    """``'triton'`` or ``'composed'``, for the selective scan's backend."""
    wanted = asked_for(DIRECTIONAL_ENVIRONMENT)
    if wanted == 'auto':
        return 'triton' if backend == 'triton' else 'composed'
    if wanted not in IMPLEMENTATIONS:
        raise InputError(
            f"{DIRECTIONAL_ENVIRONMENT} is {wanted!r}, expected 'auto' or one of {', '.join(IMPLEMENTATIONS)}"
        )
    if wanted == 'triton' and backend != 'triton':
        raise InputError(f"{DIRECTIONAL_ENVIRONMENT}='triton' cannot be used: the selective scan runs on {backend}")
    return wanted


def _check(scan: DirectionalArguments, out_dtype: torch.dtype | None) -> tuple[bool, bool]:
    """Refuse what no implementation takes; whether a tensor is float64, and whether one needs a gradient."""
    x, double, needs_grad = scan.x, False, False
    device = x.device if isinstance(x, Tensor) else None
    for name, given in zip(scan._fields, scan.tensors):
        if given is None and name in OPTIONAL:
            continue
        for tensor in given if isinstance(given, (list, tuple)) else (given,):
            if (
                not isinstance(tensor, Tensor)
                or (dtype := tensor.dtype) not in DTYPES
                or tensor.layout != torch.strided
                or tensor.device != device
            ):
                _refuse_tensor(name, tensor, device)
            double, needs_grad = double or dtype == torch.float64, needs_grad or tensor.requires_grad
    if x.dim() != 3:
        raise InputError(f'directional_scan: x has shape {tuple(x.shape)}, expected (B, L, D)')
    (batch, tokens, dim), A, dt_weight = x.shape, _shape(scan.A), _shape(scan.dt_weight)
    if len(A) != 3 or A[1] != dim or 0 in A:
        raise InputError(f'directional_scan: A has shape {A}, expected (K >= 1, D, N >= 1) with D = {dim}')
    directions, state = A[0], A[2]
    if len(dt_weight) != 3 or dt_weight[:2] != (directions, dim) or dt_weight[2] == 0:
        raise InputError(
            f'directional_scan: dt_weight has shape {dt_weight}, expected '
            f'(K, D, R >= 1) with (K, D) = {(directions, dim)}'
        )
    taps = 1
    if scan.conv_weight is not None:
        conv_weight = _shape(scan.conv_weight)
        if len(conv_weight) != 3 or conv_weight[2] == 0:
            raise InputError(
                f'directional_scan: conv_weight has shape {conv_weight}, expected '
                f'(K, D, W >= 1) with (K, D) = {(directions, dim)}'
            )
        taps = conv_weight[2]
    elif scan.conv_bias is not None:
        raise InputError('directional_scan: conv_bias is given without conv_weight')
    expected = dict(
        proj_weight=(directions, dt_weight[2] + 2 * state, dim),
        dt_weight=dt_weight,
        dt_bias=(directions, dim),
        A=A,
        D=(directions, dim),
        z=(batch, tokens, dim),
        conv_weight=(directions, dim, taps),
        conv_bias=(directions, dim),
    )
    for (name, shape), given in zip(expected.items(), scan.tensors[1:]):
        if isinstance(given, Tensor):
            if given.shape != shape:
                raise InputError(f'directional_scan: {name} has shape {tuple(given.shape)}, expected {shape}')
        elif given is not None and (len(given) != directions or any(x.shape != shape[1:] for x in given)):
            shapes = [tuple(x.shape) for x in given]
            raise InputError(f'directional_scan: {name} has shapes {shapes}, expected {directions} times {shape[1:]}')
    for name, options in (('orders', scan.orders), ('reverse', scan.reverse)):
        if len(options) != directions:
            raise InputError(f'directional_scan: {name} has {len(options)} entries, expected {directions} as A')
    for order in scan.orders:
        if order is None:
            continue
        if order.inverse.shape != (tokens,) or order.order.dim() != 1 or order.order.shape[0] < tokens:
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
    return double, needs_grad


def _refuse_tensor(name: str, tensor: Any, device: torch.device | None) -> NoReturn:
    """Say why no scan takes it."""
    if not isinstance(tensor, Tensor):
        raise InputError(f'directional_scan: {name} is {type(tensor).__name__}, expected a tensor')
    if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        raise InputError(
            f'directional_scan: {name} {tuple(tensor.shape)} is {tensor.dtype} and {tensor.layout}, expected a '
            'dense tensor of floats of 16 to 64 bits'
        )
    raise InputError(f'directional_scan: {name} {tuple(tensor.shape)} is on {tensor.device}, expected {device} as x')


def _shape(weights: Weights) -> tuple[int, ...]:
    """Of all K directions."""
    return tuple(weights.shape) if isinstance(weights, Tensor) else (len(weights), *weights[0].shape)
