"""H-ViT3: the authors' names are ours, but for a table of rotations that is computed here."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'^norm(\d)\.', r'outnorm\1.'),  # of their detectors and segmentors
    (r'\.mlp\.dwc\.', '.mlp.dwconv.'),
)


def convert_hvittt(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours, and leave out their tables of rotations, which belong to one image size.

    Our own keys stay as they are. The ``norm.*`` and ``head.*`` keys of the classifier stay in: the backbone allows
    them as unexpected.
    """
    return rename({key: x for key, x in state_dict.items() if not key.endswith('rope.rotations')}, RENAMES)
