"""TransNeXt: the authors' names."""

import re

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

STAGED = re.compile(r'^(block|norm|patch_embed)([1-4])\.')
RENAMES = ((r'\.mlp\.dwconv\.dwconv\.', '.mlp.dwconv.'),)


def convert_transnext(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are.

    The authors count stages from 1 and give the patch embedding to the stage that it begins. The ``head.*`` keys of the
    classifier stay in: the backbone allows them as unexpected.
    """
    return {STAGED.sub(_place, key): value for key, value in rename(state_dict, RENAMES).items()}


def _place(found: re.Match) -> str:
    part, stage = found[1], int(found[2])
    if part == 'patch_embed':
        return 'patch_embed.' if stage == 1 else f'layers.{stage - 2}.downsample.'
    return f'layers.{stage - 1}.{"blocks" if part == "block" else "norm"}.'
