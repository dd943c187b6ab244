"""MambaOut: the authors' layout and timm's."""

from timm.models.mambaout import checkpoint_filter_fn
from torch import Tensor


def convert_mambaout(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename either published layout to timm's names, which are ours.

    timm's filter does the renaming. It leaves timm's layout as it is. The ``head.*`` keys of the classifier stay
    in: the backbone allows them as unexpected.
    """
    return dict(checkpoint_filter_fn(dict(state_dict), None))
