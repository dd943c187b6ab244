"""Find the state dict in a checkpoint and rename its keys to those of a model.

Published weights are the whole file or a key of it. They have prefixes or none, and the model's names or the authors'.
This module removes every prefix. ``convert_state_dict`` of a family (the functions in ``adapters``) renames keys.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from mmbackbones.errors import InputError

BACKBONE = 'backbone.'  # before a backbone's names in a detector, segmentor or OpenMMLab classifier
Weights = dict[str, Tensor]


def weights_of(content: dict, name: str) -> OrderedDict[str, Tensor]:
    """The state dict in a checkpoint: under ``state_dict`` or ``model``, or the checkpoint itself.

    ``module.`` before every key, from distributed training, is removed.

    Args:
        content (dict): content of the checkpoint.
        name (str): the file, for the message.

    Raises:
        InputError: no tensors at these places.
    """
    while key := next((key for key in ('state_dict', 'model') if isinstance(content.get(key), dict)), None):
        content = content[key]
    weights = OrderedDict((key, value) for key, value in content.items() if isinstance(value, Tensor))
    if not weights:
        raise InputError(
            f'checkpoint {name}: no weights under state_dict, model or at the top; it holds '
            f'{", ".join(map(str, content))[:200]}'
        )
    versions = getattr(content, '_metadata', None)
    while all(key.startswith('module.') for key in weights):
        weights = under_prefix(weights, 'module.')
        versions = versions and {key.removeprefix('module.'): value for key, value in versions.items()}
    if versions:
        weights._metadata = versions  # type: ignore[union-attr]  # where torch keeps them
    return weights


def under_prefix(weights: Weights, prefix: str) -> OrderedDict[str, Tensor]:
    """The entries whose keys begin with ``prefix``, without it."""
    return OrderedDict((key.removeprefix(prefix), value) for key, value in weights.items() if key.startswith(prefix))


def of_backbone(weights: Weights) -> Weights:
    """The backbone's part of a whole model's weights, without the prefix. Weights of a backbone stay as they are."""
    return under_prefix(weights, BACKBONE) or weights


def rename(weights: Weights, rules: Iterable[tuple[str, str | Callable]]) -> OrderedDict[str, Tensor]:
    """Apply rules, pairs of pattern and replacement for ``re.sub``, in order to every key."""
    renamed = OrderedDict()
    for key, value in weights.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def convert_whole_model(weights: Weights, convert: Callable[[Weights], Weights]) -> Weights:
    """Apply a family's adapter to the backbone's part of a whole model; neck and heads keep their names.

    Args:
        weights (dict): weights of a detector or segmentor.
        convert (Callable): the adapter, such as ``convert_vmamba`` or a backbone's ``convert_state_dict``.
    """
    rest = {key: value for key, value in weights.items() if not key.startswith(BACKBONE)}
    converted = convert(under_prefix(weights, BACKBONE))
    return {**{BACKBONE + key: value for key, value in converted.items()}, **rest}


def to_names_of(module: nn.Module, weights: Weights, name: str, prefix: str | None = None) -> tuple[Weights, str]:
    """Rename the keys of a state dict to those of a model.

    Args:
        module (nn.Module): a model. If it has a ``backbone``, only the keys of the backbone are renamed. If it has
            ``convert_state_dict``, ``weights`` may have its authors' names; they may lack keys with the prefixes in
            ``allowed_missing``.
        weights (dict): weights of such a model, or of a larger one with this model as its ``backbone``.
        name (str): the file, for the message.
        prefix (str, optional): take only the keys under this prefix.

    Returns:
        tuple: the state dict, and a description of its layout.

    Raises:
        InputError: no key begins with the prefix, or the adapter misses a key.
    """
    own = module.state_dict()
    layout = 'own names'
    if prefix:
        prefix = prefix.rstrip('.') + '.'
    elif prefix is None and not any(key.startswith(BACKBONE) for key in own):
        prefix = BACKBONE if any(key.startswith(BACKBONE) for key in weights) else None
    if prefix:
        weights, layout = under_prefix(weights, prefix), f'mm checkpoint, {prefix}*'
        if not weights:
            raise InputError(f'checkpoint {name}: no key begins with {prefix!r}')
    needed = [key for key in own if not key.startswith(tuple(getattr(module, 'allowed_missing', ())))]
    if all(key in weights and weights[key].dim() == own[key].dim() for key in needed):
        return weights, layout
    convert = getattr(module, 'convert_state_dict', None)
    inner = getattr(getattr(module, 'backbone', None), 'convert_state_dict', None)
    try:
        if convert is not None:
            converted = convert(weights)
        elif inner is not None:
            converted = convert_whole_model(weights, inner)
        else:
            converted = weights
    except KeyError as error:
        raise InputError(
            f'checkpoint {name} does not fit {type(module).__name__}: it has no {error.args[0]}; '
            'is it of another model or family?'
        ) from error
    if converted.keys() != weights.keys():
        layout = layout.replace('own names', "authors' names") + ', converted'
    return converted, layout
