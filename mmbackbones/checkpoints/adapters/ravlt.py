"""RAVLT: the authors' names, and 1x1 convolutions that are linear layers here."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

RENAMES = (
    (r'^patch_embed\.proj\.', 'patch_embed.'),
    (r'^extra_norms\.(\d)\.norm\.', r'outnorm\1.'),  # of their detectors and segmentors
    (r'\.norm([12])\.norm\.', r'.norm\1.'),
    (r'\.gamma_([12])$', r'.ls\1.gamma'),
    (r'\.downsample\.reduction\.', '.downsample.1.'),
    (r'\.downsample\.norm\.', '.downsample.2.'),
)
FLAT = ('.qkvo.weight', '.attn.proj.weight', '.fc1.weight', '.fc2.weight', '.ls1.gamma', '.ls2.gamma')


def convert_ravlt(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours, flatten 1x1 kernels and layer scales, leave out the constant frequencies.

    Our own keys stay as they are. The ``proj.*``, ``norm.*`` and ``head.*`` keys of the classifier stay in: the
    backbone allows them as unexpected.
    """
    weights = rename({key: x for key, x in state_dict.items() if not key.endswith('.RoPE.angle')}, RENAMES)
    for key, value in weights.items():
        if key.startswith('layers.') and key.endswith(FLAT) and value.dim() == 4:
            weights[key] = value.flatten() if key.endswith('.gamma') else value.flatten(1)
    return weights
