"""Spatial-Mamba: the authors' names."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'\.self_attention\.', '.mixer.'),
    (r'\.ln_([12])\.', r'.norm\1.'),
    (r'^(norm|head)\.', r'classifier.\1.'),
)
PER_DIRECTION = ('x_proj_weight', 'dt_projs_weight', 'dt_projs_bias')


def convert_spatialmamba(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours, and stack the weights of their single direction. Our own keys stay as they are.

    The ``classifier.*`` keys stay in: the backbone allows them as unexpected.
    """
    authors = any('.self_attention.' in key for key in state_dict)
    return {
        key: value[None] if authors and key.endswith(PER_DIRECTION) else value
        for key, value in rename(state_dict, RENAMES).items()
    }
