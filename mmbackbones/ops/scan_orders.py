"""Scan orders: how a 2-D map becomes a sequence, as index maps, and how it comes back.

An order is two int64 index maps. ``order[s]`` is the pixel (``row * width + column``) that slot ``s`` of the
sequence reads, or -1 for a padding slot, which reads zero but is scanned all the same. ``inverse[p]`` is the
slot that pixel ``p`` returns from. Every pixel has exactly one slot. Heights and widths are free; nothing is
assumed square.

Names of orders (each also with the suffix ``_flip``, the same sequence from its end):

* ``h``, ``v``: row-major, column-major (Vim, VMamba).
* ``w<K>``: K x K windows, row-major, row-major inside; map padded at the bottom and right (LocalMamba).
* ``w<K>v``: the same with both walks column-major.
* ``s2``: the four stride-2 groups one after another, each of ``ceil(H/2) * ceil(W/2)`` slots: (even row, even
  column) by rows, (odd, even) by columns, (even, odd) by rows, (odd, odd) by columns (EfficientVMamba).
* ``snake_h``: by rows, every other row backwards, so that neighbours in the sequence touch (PlainMamba).
* ``snake_v``: the same by columns.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.errors import InputError

__all__ = [
    'ScanOrder',
    'cross_merge',
    'cross_scan',
    'forget_orders',
    'inverse_order',
    'localmamba_displacement',
    'localmamba_unscan_order',
    'merge_sequences',
    'move_codes',
    'permute_tokens',
    'quarter_orders',
    'scan_order',
    'to_map',
    'to_sequence',
    'to_sequences',
]

Made = TypeVar('Made')


def remembered(maxsize: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """``lru_cache``, except in an export, whose sizes may be symbols and whose tensors are part of its graph."""

    def decorate(make: Callable[..., Made]) -> Callable[..., Made]:
        cached = functools.lru_cache(maxsize)(make)

        @functools.wraps(make)
        def look_up(*args: Any, **kwargs: Any) -> Made:
            return (make if torch.compiler.is_exporting() else cached)(*args, **kwargs)

        look_up.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
        return look_up

    return decorate


# Of each direction: None by rows; height and width: down the columns of such a map.
Columns = tuple[tuple[int, int] | None, ...]

_NAME = re.compile(r'(h|v|w([1-9]\d*)v?|s2|snake_[hv])(_flip)?')


class ScanOrder(NamedTuple):
    """One order over a map of P pixels with S >= P slots."""

    order: Tensor
    """(S,) int64, pixel of each slot, -1 where the slot is padding."""
    inverse: Tensor
    """(P,) int64, slot of each pixel."""
    columns_of: tuple[int, int] | None = None
    """Height and width, where the order goes down the columns of such a map: then it is a transposition."""


def scan_order(name: str, height: int, width: int, device: torch.device | str = 'cpu') -> ScanOrder:
    """The order called ``name`` over a ``height`` x ``width`` map; cached, so treat the tensors as read-only.

    Raises:
        InputError: unknown name, or a side below 1.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f'scan order {name!r} unknown; expected h, v, w<K>, w<K>v, s2, snake_h or snake_v, '
            "optionally followed by '_flip'"
        )
    if height < 1 or width < 1:
        raise InputError(f'scan order {name!r}: height and width must be positive, got {height} x {width}')
    return _cached_order(name, height, width, torch.device(device))


@remembered(maxsize=128)
def _cached_order(name: str, height: int, width: int, device: torch.device) -> ScanOrder:
    # An index map made under inference_mode could not be saved for a later backward pass.
    with torch.inference_mode(False):
        order = _slots(name.removesuffix('_flip'), height, width, device)
        if name.endswith('_flip'):
            order = order.flip(0)
        columns_of = (height, width) if name == 'v' else None
        return ScanOrder(order, inverse_order(order, height * width), columns_of)


def forget_orders() -> None:
    """Empty the cache, which must not keep index maps that were made as fake tensors: they hold no numbers."""
    for cached in (_cached_order, _cached_moves, _cached_displacement, _cached_quarters):
        cached.cache_clear()  # type: ignore[union-attr]


def _slots(name: str, height: int, width: int, device: torch.device) -> Tensor:
    grid = torch.arange(height * width, device=device).view(height, width)
    if name in ('v', 'snake_v'):
        grid = grid.t()
    if name.startswith('snake'):
        grid = grid.clone()
        grid[1::2] = grid[1::2].flip(1)
    elif name == 's2':
        grid = F.pad(grid, (0, width % 2, 0, height % 2), value=-1)
        groups = (grid[0::2, 0::2], grid[1::2, 0::2].t(), grid[0::2, 1::2], grid[1::2, 1::2].t())
        return torch.cat([group.flatten() for group in groups])
    elif name.startswith('w'):
        size = int(name.strip('wv'))
        grid = F.pad(grid, (0, -width % size, 0, -height % size), value=-1)
        # [rows, K, columns, K]
        windows = grid.view(grid.shape[0] // size, size, grid.shape[1] // size, size)
        grid = windows.permute(2, 0, 3, 1) if name.endswith('v') else windows.transpose(1, 2)
    return grid.flatten()


def inverse_order(order: Tensor, num_pixels: int) -> Tensor:
    """The slot of each pixel, if each has one."""
    slots = torch.arange(order.numel(), device=order.device)
    # Padding slots, which are -1, all land in one extra cell that is cut off again.
    return slots.new_zeros(num_pixels + 1).scatter_(0, order + 1, slots)[1:].clone()


def localmamba_unscan_order(
    name: str, height: int, width: int, device: torch.device | str = 'cpu', *, exact: bool = False
) -> ScanOrder:
    """The order to hand to :func:`to_map` after a LocalMamba scan in the order ``name``.

    The published code brings column-major sequences back with height and width exchanged: their inverse on
    square maps only; on others tokens return to wrong places. The published dense results were made that way,
    so it is the default here; ``exact=True`` gives the true inverse.
    """
    swapped = not exact and name in ('v', 'v_flip')
    return scan_order(name, *((width, height) if swapped else (height, width)), device)


@remembered(maxsize=128)
def _cached_displacement(name: str, height: int, width: int, device: torch.device) -> ScanOrder:
    with torch.inference_mode(False):
        scan, back = scan_order(name, height, width, device), localmamba_unscan_order(name, height, width, device)
        displacement = scan.order[back.inverse]
        return ScanOrder(displacement, inverse_order(displacement, height * width))


def localmamba_displacement(
    name: str, height: int, width: int, device: torch.device | str = 'cpu', *, exact: bool = False
) -> ScanOrder | None:
    """Where tokens end up that stand in their right places, see :func:`localmamba_unscan_order`; None: there.

    To be handed to :func:`permute_tokens` after a scan that writes by the order ``name`` itself.
    """
    if exact or height == width or name not in ('v', 'v_flip'):
        return None
    return _cached_displacement(name, height, width, torch.device(device))


@remembered(maxsize=128)
def _cached_quarters(height: int, width: int, device: torch.device) -> tuple[ScanOrder, tuple[Tensor, ...]]:
    with torch.inference_mode(False):
        scan = scan_order('s2', height, width, device)
        order = scan.inverse.argsort()
        slots = scan.order.view(4, -1)
        quarters = ((slots >= 0).cumsum(1) - 1).masked_fill(slots < 0, -1)
        return ScanOrder(order, inverse_order(order, height * width)), quarters.unbind()


def quarter_orders(
    height: int, width: int, device: torch.device | str = 'cpu'
) -> tuple[ScanOrder, tuple[Tensor, ...], tuple[int, ...]]:
    """The order ``s2`` in two steps, for scans of one quarter each.

    Returns:
        The permutation that puts the tokens of a quarter behind one another, in the quarter's order; for each quarter
        the tokens of its slots, -1 where the slot is padding; and how many tokens it has.
    """
    even, odd = (-(-height // 2), -(-width // 2)), (height // 2, width // 2)
    lengths = even[0] * even[1], odd[0] * even[1], even[0] * odd[1], odd[0] * odd[1]
    return *_cached_quarters(height, width, torch.device(device)), lengths


@remembered(maxsize=128)
def _cached_moves(name: str, height: int, width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        order = scan_order(name, height, width, device).order
        sides = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        down, right = (side.expand(height, width).flatten()[order].diff() for side in sides)
        codes = (right == 1) * 1 + (right == -1) * 2 + (down == -1) * 3 + (down == 1) * 4
        return F.pad(codes, (1, 0))


def move_codes(name: str, height: int, width: int, device: torch.device | str = 'cpu') -> Tensor:
    """(S,) int64: the move that led to each slot: 0 first slot, 1 right, 2 left, 3 up, 4 down (PlainMamba).

    Raises:
        InputError: ``name`` is not a snake: other orders jump.
    """
    if not name.startswith('snake'):
        raise InputError(f'move codes: order {name!r} jumps; expected snake_[hv] or snake_[hv]_flip')
    scan_order(name, height, width, device)
    return _cached_moves(name, height, width, torch.device(device))


class _Gather(torch.autograd.Function):
    """``out[..., i] = x[..., index[i]]``; its gradient is a gather too, not index_select's scatter-add."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        # On the CPU gather takes a tenth of index_select's time along the last axis.
        shape = (*x.shape[:-1], index.numel())
        # A graph for any size must be that of an order with padding.
        if index.numel() <= x.shape[-1] and not torch.compiler.is_exporting():
            return x.gather(-1, index.expand(shape))
        return x.gather(-1, index.clamp(min=0).expand(shape)).masked_fill_(index < 0, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Gather.apply(grad, inverse, index), None, None


class _Permute(torch.autograd.Function):
    """``out[:, i] = x[:, index[i]]``, rows as they are; its gradient is the same by the inverse, not a scatter-add."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(1, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Permute.apply(grad, inverse, index), None, None


def permute_tokens(x: Tensor, order: ScanOrder) -> Tensor:
    """Tokens (B, P, C) in an order without padding: token i of the result is token ``order.order[i]``."""
    return _Permute.apply(x, order.order, order.inverse)


def to_sequence(x: Tensor, order: ScanOrder) -> Tensor:
    """Reads a map in scan order: (..., P) to (..., S), zero in the padding slots."""
    if order.columns_of is not None:
        return x.unflatten(-1, order.columns_of).transpose(-1, -2).flatten(-2)
    return _Gather.apply(x, order.order, order.inverse)


def to_map(y: Tensor, order: ScanOrder) -> Tensor:
    """Brings a sequence back to pixel order: (..., S) to (..., P); padding slots are dropped."""
    if order.columns_of is not None:
        return y.unflatten(-1, order.columns_of[::-1]).transpose(-1, -2).flatten(-2)
    return _Gather.apply(y, order.inverse, order.order)


class _Spread(torch.autograd.Function):
    """A map read by rows or columns, side by side; its gradient is the sum that :class:`_Merge` makes."""

    @staticmethod
    def forward(x: Tensor, columns: Columns) -> Tensor:
        u = x.new_empty(x.shape[0], len(columns), *x.shape[1:])
        for k, size in enumerate(columns):
            if size is None:
                u[:, k] = x
            else:
                u[:, k].unflatten(-1, size[::-1]).copy_(x.unflatten(-1, size).transpose(-1, -2))
        return u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.columns = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Merge.apply(grad, ctx.columns), None


class _Merge(torch.autograd.Function):
    """The sum of what :class:`_Spread` laid side by side, which is its gradient."""

    @staticmethod
    def forward(y: Tensor, columns: Columns) -> Tensor:
        sums = y.new_empty(y.shape[0], *y.shape[2:])
        for k, size in enumerate(columns):
            # Read where it lies: a turned copy would be as large as the result.
            total, part = (
                (sums, y[:, k])
                if size is None
                else (sums.unflatten(-1, size), y[:, k].unflatten(-1, size[::-1]).transpose(-1, -2))
            )
            total.copy_(part) if k == 0 else total.add_(part)
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.columns = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(grad, ctx.columns), None


def to_sequences(x: Tensor, orders: Sequence[ScanOrder | None]) -> Tensor:
    """Reads a map in several orders of equally many slots: (B, D, P) to (B, K, D, S). None: by rows."""
    if all(order is None or order.columns_of is not None for order in orders):
        return _Spread.apply(x, _columns(orders))
    return torch.stack([x if order is None else to_sequence(x, order) for order in orders], dim=1)


def merge_sequences(y: Tensor, orders: Sequence[ScanOrder | None]) -> Tensor:
    """Brings sequences back to pixel order and sums them: (B, K, D, S) to (B, D, P); padding slots are dropped."""
    if all(order is None or order.columns_of is not None for order in orders):
        return _Merge.apply(y, _columns(orders))
    maps = [part if order is None else to_map(part, order) for order, part in zip(orders, y.unbind(1))]
    return functools.reduce(torch.add, maps)


def _columns(orders: Sequence[ScanOrder | None]) -> Columns:
    sizes = (None if order is None else order.columns_of for order in orders)
    if torch.compiler.is_exporting():  # sizes may be symbols, which int() would fix
        return tuple(sizes)
    # While torch.jit traces, sizes are tensors, which an autograd function does not take in a tuple.
    return tuple(size and (int(size[0]), int(size[1])) for size in sizes)


def cross_scan(x: Tensor, directions: int = 4) -> Tensor:
    """VMamba's four directions: (B, C, H, W) to (B, 4, C, H*W), in the orders h, v, h_flip, v_flip.

    ``directions=2`` returns the first two alone: a scan with ``reverse=True`` covers the others with no copy.

    Raises:
        InputError: ``directions`` is neither 4 nor 2.
    """
    if directions not in (2, 4):
        raise InputError(f'cross_scan: directions must be 4 or 2, got {directions}')
    # [B, C, H, W] -> [B, 2, C, H*W]
    pair = _Spread.apply(x.flatten(2), (None, tuple(x.shape[2:])))
    return pair if directions == 2 else torch.cat([pair, pair.flip(-1)], dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Sums the directions of :func:`cross_scan` in pixel order: (B, 4 or 2, C, H*W) to (B, C, H*W).

    Raises:
        InputError: ``y`` does not have 4 or 2 directions of ``height * width`` tokens.
    """
    if y.dim() != 4 or y.shape[1] not in (2, 4) or y.shape[3] != height * width:
        raise InputError(f'cross_merge: y must be (B, 4 or 2, C, {height}*{width}), got {tuple(y.shape)}')
    if y.shape[1] == 4:
        y = y[:, :2] + y[:, 2:].flip(-1)
    return _Merge.apply(y, (None, (height, width)))
