"""What both LocalMamba families share: four scan orders per block, brought back as published or exactly.

LocalVMamba projects its tokens as they lie and scans them by index: a padding slot of a window takes zeros, as it would
from a padded copy. LocalVim scans a gathered copy, the padding slots included, because its slots are not empty: a
causal convolution runs along the order before the projections, so that the slots behind a window's last token hold what
it carries over from that token, and its bias. The copies of x and z take 4 * D * S bytes each in float32 for S slots:
7.2 MB for LocalVim-tiny at 800x1280 (D = 384), in windows of 7 with S = 56 * 84, a seventh of it padding.
"""

import torch

from mmbackbones.errors import InputError
from mmbackbones.ops.scan_orders import ScanOrder, localmamba_unscan_order, remembered, scan_order

NUM_ORDERS = 4


def resolve_directions(family: str, given: str | list[str] | None, num_blocks: int) -> list[tuple[str, ...]]:
    """Four known orders for every block.

    Args:
        family (str): named in the message of an error.
        given (str | list[str] | None): names of four orders with blanks between, for all blocks or one string for each.
        num_blocks (int): of the whole network.

    Raises:
        InputError: another number of orders or of strings, or an unknown order.
    """
    strings = [given] * num_blocks if isinstance(given, str) else given or []
    lists = [tuple(names.split()) for names in strings]
    if len(lists) != num_blocks or any(len(names) != NUM_ORDERS for names in lists):
        raise InputError(
            f'{family}: arch directions={given!r}, expected a string of {NUM_ORDERS} scan orders, or '
            f'{num_blocks} such strings, one per block'
        )
    for name in {name for names in lists for name in names}:
        scan_order(name, 1, 1)
    return lists


@remembered(maxsize=256)
def local_orders(
    direction: str, grid: tuple[int, int], device: torch.device, exact: bool, middle_token: bool = False
) -> tuple[ScanOrder, ScanOrder]:
    """The order to scan a grid in and the one to bring it back by, without reversal: scan ``_flip`` from the end.

    Args:
        direction (str): name of the order; its ``_flip`` only tells where a middle token goes.
        grid (tuple[int, int]): rows and columns.
        device (torch.device): of the result.
        exact (bool): see :func:`localmamba_unscan_order`.
        middle_token (bool): tokens are those of the grid with one more in the middle, at ``rows * columns // 2``. It is
            scanned at that position too, in sequences with padding as in others.
    """
    name = direction.removesuffix('_flip')
    orders = scan_order(name, *grid, device), localmamba_unscan_order(name, *grid, device, exact=exact)
    if not middle_token:
        return orders
    middle = grid[0] * grid[1] // 2
    slot = middle if name == direction else orders[0].order.shape[0] - middle
    # An index map made under inference_mode could not be saved for a later backward pass.
    with torch.inference_mode(False):
        return _insert(orders[0], middle, slot), _insert(orders[1], middle, slot)


def _insert(scan: ScanOrder, row: int, slot: int) -> ScanOrder:
    """One more token as row ``row`` of the map, scanned at ``slot``."""
    order, inverse = scan.order + (scan.order >= row), scan.inverse + (scan.inverse >= slot)
    order = torch.cat((order[:slot], order.new_full((1,), row), order[slot:]))
    return ScanOrder(order, torch.cat((inverse[:row], inverse.new_full((1,), slot), inverse[row:])))
