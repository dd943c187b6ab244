"""MambaVision: the authors' names."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'^patch_embed\.conv_down\.', 'patch_embed.'),
    (r'^levels\.(\d+)\.downsample\.reduction\.0\.', r'layers.\1.downsample.1.'),
    (r'^levels\.', 'layers.'),
    (r'\.gamma_([12])$', r'.ls\1.gamma'),
)


def convert_mambavision(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are.

    The ``norm.*`` and ``head.*`` keys of the classifier stay in: the backbone allows them as unexpected.
    """
    return rename(state_dict, RENAMES)
