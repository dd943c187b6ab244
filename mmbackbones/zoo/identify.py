"""Find out whose weights a checkpoint holds, for the error message when they do not fit. Slow, so only used there."""

import functools
import inspect

import torch
from torch import Tensor

from mmbackbones.backbones.base import Backbone
from mmbackbones.checkpoints.layout import of_backbone
from mmbackbones.errors import InputError
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.registry import MODELS

# Differ with the image size and the class token, not with the variant.
RESIZED = ('pos_embed', 'pos_grid', 'rope', 'cls_token')


def identify(weights: dict[str, Tensor]) -> str | None:
    """Find the registered backbone and named arch with these parameters, in its authors' layout or in ours.

    Args:
        weights: state dict of a backbone or classifier.

    Returns:
        str | None: such as ``'VMamba tiny_s1l8'``; None if no named arch has exactly these shapes.
    """
    MODELS.import_from_location()
    weights = of_backbone(weights)
    for family, backbone in MODELS.module_dict.items():
        if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
            continue
        try:
            converted = backbone.convert_state_dict(dict(weights))
        except (KeyError, ValueError, RuntimeError, InputError):
            continue
        for arch in backbone.archs:
            try:
                skipped, shapes = _fingerprint(backbone, arch)
            except InputError:  # an arch that this class cannot be built with by its name alone
                continue
            if _shapes(converted, skipped) == shapes:
                return f'{family} {arch}'
    return None


@functools.cache
def _fingerprint(backbone: type[Backbone], arch: str) -> tuple[tuple[str, ...], dict[str, torch.Size]]:
    """Key prefixes that all variants share, and the shapes of the keys that differ."""
    with shapes_alone():
        model = _whole(backbone, arch)
    skipped = (*model.allowed_missing, *model.allowed_unexpected, *RESIZED)
    return skipped, _shapes(model.state_dict(), skipped)


def _shapes(weights: dict[str, Tensor], skipped: tuple[str, ...]) -> dict[str, torch.Size]:
    return {
        key: value.shape
        for key, value in weights.items()
        if not key.startswith(skipped) and not key.endswith('num_batches_tracked')
    }


def _whole(backbone: type[Backbone], arch: str) -> Backbone:
    """Build the model with all its layers, also those after the last out index."""
    chooses = 'out_indices' in inspect.signature(backbone).parameters
    for last in (35, 23, 19, 3) if chooses else ():
        try:
            return backbone(arch=arch, out_indices=(last,))
        except InputError:
            continue
    return backbone(arch=arch)


def both_names(weights: dict[str, Tensor], model: Backbone) -> str:
    """End of a message about weights that do not fit: the model of the file and the model of the config."""
    held = identify(weights)
    if held is None:
        return ''
    return f'; the file holds {held}, the model is {identify(model.state_dict()) or type(model).__name__}'
