"""EfficientVMamba: the authors' flat convolution stages."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'^(layers\.\d+)\.\d+\.(norm|reduction)\.', r'\1.downsample.\2.'),
    (r'^(layers\.\d+)\.(\d+)\.', lambda found: f'{found[1]}.blocks.{int(found[2]) - 1}.'),
)


def convert_efficientvmamba(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give stages 2 and 3 the structure of the first two. Our own names stay as they are.

    The authors number their entries in one sequence: a permutation, the blocks from 1 on, a permutation, the patch
    merging. The ``classifier.*`` keys stay in: the backbone allows them as unexpected.
    """
    return rename(state_dict, RENAMES)
