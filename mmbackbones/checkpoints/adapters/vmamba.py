"""VMamba: three generations of key names."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (  # the oldest files' names, by the authors' own loader
    (r'^patch_embed\.proj\.', 'patch_embed.0.'),
    (r'^patch_embed\.norm\.', 'patch_embed.2.'),
    (r'\.ln_1\.', '.norm.'),
    (r'\.self_attention\.', '.op.'),
    (r'^(norm|head)\.', r'classifier.\1.'),
)
DIRECTIONS = 4


def convert_vmamba(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename any published layout to that of the released checkpoints (``classification/models``), which is ours.

    The single-file version stores the projections of the four directions flat, ``op.x_proj.weight`` (4 (R + 2N), D)
    and ``op.dt_projs.weight`` (4 D, R). Linear weights may have two more axes, of a 1x1 kernel. The ``classifier.*``
    keys stay in: the backbone allows them as unexpected.
    """
    converted = {}
    for key, value in rename(state_dict, RENAMES).items():
        if key.endswith(('.x_proj.weight', '.dt_projs.weight')):
            key = key.removesuffix('.weight') + '_weight'
            value = value.unflatten(0, (DIRECTIONS, -1))
        elif key.endswith(('_proj.weight', '.fc1.weight', '.fc2.weight')) and value.dim() == 4:
            value = value.flatten(1)
        converted[key] = value
    return converted
