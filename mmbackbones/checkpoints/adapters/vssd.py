"""VSSD: the authors' names of mixers and classifier."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'\.attn\.to_qkv\.', '.mixer.qkv.'),
    (r'\.attn\.to_out\.', '.mixer.proj.'),
    (r'\.attn\.', '.mixer.'),
    (r'^(norm|head)\.', r'classifier.\1.'),
)


def convert_vssd(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are.

    The keys of the classifier stay in as ``classifier.*``: the backbone allows them as unexpected.
    """
    return rename(state_dict, RENAMES)
