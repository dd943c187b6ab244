"""MambaOut: the authors' layout and timm's."""

from timm.models.mambaout import checkpoint_filter_fn
from torch import Tensor


def convert_mambaout(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring either published layout to timm's names, which are ours.

    timm's own filter does the renaming; it leaves its own layout as it is. The ``head.*`` keys of the classifier stay
    in: the backbone allows them as unexpected.
    """
    return dict(checkpoint_filter_fn(dict(state_dict), None))
