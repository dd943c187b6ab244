"""MILA: the authors' names of mixers, output norms and classifier, and their rotary tables."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'^(layers\.\d+\.blocks\.\d+)\.(in_proj|act_proj|dwc|out_proj|attn)\.', r'\1.mixer.\2.'),
    (r'^norm(\d)\.', r'outnorm\1.'),
    (r'^(norm|head)\.', r'classifier.\1.'),
)
TABLES = '.rope.rotations'  # constants of the image size of the training, which we compute


def convert_mila(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours and leave out their rotary tables. Our own keys stay as they are.

    The keys of the classifier stay in as ``classifier.*``: the backbone allows them as unexpected.
    """
    return rename({key: value for key, value in state_dict.items() if not key.endswith(TABLES)}, RENAMES)
