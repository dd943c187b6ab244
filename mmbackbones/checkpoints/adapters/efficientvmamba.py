"""EfficientVMamba: the authors' flat convolution stages."""

import re

from torch import Tensor


def convert_efficientvmamba(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give stages 2 and 3 the structure of the first two; our own names pass through.

    The authors number their entries in one sequence: a permutation, the blocks from 1 on, a permutation, the patch
    merging. The ``classifier.*`` keys stay in: the backbone allows them as unexpected.
    """
    converted = {}
    for key, value in state_dict.items():
        key = re.sub(r'^(layers\.\d+)\.\d+\.(norm|reduction)\.', r'\1.downsample.\2.', key)
        key = re.sub(r'^(layers\.\d+)\.(\d+)\.', lambda m: f'{m[1]}.blocks.{int(m[2]) - 1}.', key)
        converted[key] = value
    return converted
