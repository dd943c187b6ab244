"""Weights of timm's models: their addresses, and their names here."""

import difflib
import sys
from types import ModuleType

import torch.nn.functional as F
from timm import is_model, list_models, model_entrypoint
from timm.models import list_pretrained
from torch import Tensor, nn

from mmbackbones.errors import InputError


def check_timm_name(family: str, name: str) -> None:
    """Refuse a name that timm does not know. The name may have the tag of its weights.

    Raises:
        InputError: the message shows the nearest names.
    """
    base, _, tag = name.partition('.')
    if not is_model(base):
        near = difflib.get_close_matches(base, list_models(), 5, cutoff=0.5)
        raise InputError(f'{family}: timm has no model {base!r}; nearest: {", ".join(near) or "none"}')
    tagged = [known for known in list_pretrained() if known.partition('.')[0] == base]
    if tag and name not in tagged:
        raise InputError(f'{family}: timm has no weights {name!r}; known: {", ".join(tagged) or "none"}')


def timm_module(name: str) -> ModuleType:
    """timm's source module of a model."""
    return sys.modules[model_entrypoint(name.partition('.')[0]).__module__]


def convert_timm(state_dict: dict[str, Tensor], *, name: str, net: nn.Module) -> dict[str, Tensor]:
    """Rename timm's or the authors' names to ours, which are timm's after ``net.``.

    timm's filter of the model does the renaming and resizing. Depthwise kernels of focal modulation that are
    smaller than the model's are padded with zeros, which changes no output (microsoft/FocalNet does so for dense
    prediction).

    Args:
        state_dict: a classifier's weights.
        name: timm's name of the model.
        net: timm's model, which gives the shapes.

    Raises:
        InputError: timm's filter does not accept the weights.
    """
    adapt = vars(timm_module(name)).get('checkpoint_filter_fn')
    weights = dict(state_dict)
    if adapt is not None:
        try:
            weights = dict(adapt(weights, net))
        except (AttributeError, IndexError, KeyError, RuntimeError) as error:
            raise InputError(f'not the weights of {name}: {" ".join(str(error).split())[:200]}') from error
    own = net.state_dict()
    for key in weights:
        if '.focal_layers.' in key and key in own:
            border = (own[key].shape[-1] - weights[key].shape[-1]) // 2
            weights[key] = F.pad(weights[key], (max(border, 0),) * 4)
    return {f'net.{key}': value for key, value in weights.items()}
