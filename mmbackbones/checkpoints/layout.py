"""Find the state dict in a checkpoint and rename its keys to those of a model.

Published weights are the whole file or a key of it. They have prefixes or none, and the model's names or the authors'.
This module removes every prefix. ``convert_state_dict`` of a family (the functions in ``adapters``) renames keys.

Checkpoints of other trainers are read as they come: with the names that ``torch.compile``, DDP, FSDP and activation
checkpointing insert, with a prefix of a trainer such as Lightning before every key, in half precision, with or without
an optimizer. If a file holds plain weights and averaged ones (EMA), the plain ones are taken, and the log says so.
mmengine's ``EMAHook`` writes the averaged weights as ``state_dict``: of its files these are taken.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor, nn

from mmbackbones.errors import InputError

BACKBONE = 'backbone.'  # before a backbone's names in a detector, segmentor or OpenMMLab classifier
Weights = dict[str, Tensor]

# Keys of a checkpoint that hold weights, first the ones that count more.
PLAIN = ('state_dict', 'model', 'model_state_dict', 'model_state', 'module', 'net', 'network', 'weights', 'params')
AVERAGED = (
    'ema_state_dict',
    'state_dict_ema',
    'model_ema',
    'model_ema_state_dict',
    'ema_model',
    'ema_model_state_dict',
    'ema',
    'params_ema',
)
COUNTERS = ('steps', 'n_averaged')  # of averaged models, beside their weights
# Parts of a key that wrappers insert: torch.compile, FSDP, activation checkpointing.
WRAPPERS = ('_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')


class Found(NamedTuple):
    """Weights of a checkpoint.

    Attributes:
        weights (OrderedDict[str, Tensor]): the state dict.
        notes (list[str]): what was chosen and removed, for the log.
    """

    weights: OrderedDict[str, Tensor]
    notes: list[str]


def weights_of(content: dict, name: str) -> OrderedDict[str, Tensor]:
    """The weights of :func:`find_weights`."""
    return find_weights(content, name).weights


def find_weights(content: dict, name: str) -> Found:
    """Find the state dict in a checkpoint: under a key of ``PLAIN``, else of ``AVERAGED``, or the checkpoint itself.

    ``module.`` before every key, from distributed training, and the parts in ``WRAPPERS`` are removed.

    Args:
        content (dict): content of the checkpoint.
        name (str): the file, for the message.

    Raises:
        InputError: no tensors at these places, or two keys are the same without their wrappers.
    """
    notes = []
    top = content
    while key := next((key for key in (*PLAIN, *AVERAGED) if _has_tensors(content.get(key))), None):
        others = [other for other in AVERAGED if other != key and _has_tensors(content.get(other))]
        if key in AVERAGED:
            notes.append(f'averaged weights (EMA) under {key}')
        elif others == ['ema_state_dict']:
            notes.append(f'weights under {key}, which mmengine writes averaged (EMA)')
        elif others:
            notes.append(f'plain weights under {key}, not the averaged ones (EMA) under {others[0]}')
        content = content[key]
    weights = OrderedDict((key, value) for key, value in content.items() if isinstance(value, Tensor))
    if not weights:
        raise InputError(
            f'checkpoint {name}: no weights under state_dict, model or at the top; it holds '
            f'{", ".join(map(str, top))[:200]}'
        )
    versions = getattr(content, '_metadata', None)
    bare = OrderedDict()
    for key, value in weights.items():
        short = without_wrappers(key)
        if short in bare:
            raise InputError(f'checkpoint {name}: {short} occurs twice, with and without the prefix of a wrapper')
        bare[short] = value
    if inserted := [part for part in WRAPPERS if any(part in key.split('.') for key in weights)]:
        notes.append(f'without {", ".join(f"{part}." for part in inserted)} in its keys')
        versions = versions and {without_wrappers(key): value for key, value in versions.items()}
    weights = bare
    counters = [key for key in COUNTERS if key in weights]
    while weights and all(key.startswith('module.') for key in weights if key not in counters):
        weights = under_prefix(weights, 'module.')
        versions = versions and {key.removeprefix('module.'): value for key, value in versions.items()}
        counters = []
    if versions:
        weights._metadata = versions  # type: ignore[attr-defined]  # where torch keeps them
    return Found(weights, notes)


def without_wrappers(key: str) -> str:
    """A key without the parts that wrappers insert: ``backbone._orig_mod.stem`` is ``backbone.stem``."""
    return '.'.join(part for part in key.split('.') if part not in WRAPPERS)


def _has_tensors(value: object) -> bool:
    """Whether a value is a dict with tensors in it, or in a part of it that :func:`find_weights` takes."""
    return isinstance(value, dict) and (
        any(isinstance(item, Tensor) for item in value.values())
        or any(_has_tensors(value.get(key)) for key in (*PLAIN, *AVERAGED))
    )


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
        weights (dict): weights of such a model, or of a larger one with this model as its ``backbone``. All keys may
            have a prefix in common that the model does not know.
        name (str): the file, for the message.
        prefix (str, optional): take only the keys under this prefix.

    Returns:
        tuple: the state dict, and a description of its layout.

    Raises:
        InputError: no key begins with the prefix, the model's keys occur under several prefixes, or the adapter misses
            a key.
    """
    own = module.state_dict()
    layout = 'own names'
    needed = [key for key in own if not key.startswith(tuple(getattr(module, 'allowed_missing', ())))]
    outer = ''
    if prefix is None:
        outer = _outer_prefix(needed, weights, name) or _common_prefix(own, weights)
        whole, weights = len(weights), under_prefix(weights, outer) if outer else weights
    if prefix:
        prefix = prefix.rstrip('.') + '.'
    elif prefix is None and not any(key.startswith(BACKBONE) for key in own):
        prefix = BACKBONE if any(key.startswith(BACKBONE) for key in weights) else None
    if prefix:
        weights, layout = under_prefix(weights, prefix), f'mm checkpoint, {prefix}*'
        if not weights:
            raise InputError(f'checkpoint {name}: no key begins with {prefix!r}')
    if outer:
        others = f' ({whole - len(weights)} keys beside it not used)' if whole > len(weights) else ''
        layout += f', under {outer}*{others}'
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


def _outer_prefix(needed: list[str], weights: Weights, name: str) -> str:
    """The prefix under which most keys of a model are found, such as Lightning's ``model.``; empty without one."""
    wanted = set(needed)
    heads: Counter[str] = Counter()
    for key in weights:
        parts = key.split('.')
        tails = {'.'.join(parts[:place]): '.'.join(parts[place:]) for place in range(len(parts))}
        heads.update(head and f'{head}.' for head, tail in tails.items() if tail in wanted)
    found = [head for head, count in heads.items() if count > len(needed) / 2]
    if not needed or '' in found or BACKBONE in found:
        return ''
    found = [head for head in found if head.endswith(f'.{BACKBONE}')] or found
    plain = [head for head in found if 'ema' not in re.split(r'[._]', head)] or found
    if len(plain) > 1:
        raise InputError(
            f'checkpoint {name}: it has the keys of this model under {" and ".join(plain)}; keep one of them'
        )
    return plain[0] if plain else ''


def _common_prefix(own: Weights, weights: Weights) -> str:
    """``model.`` or ``net.`` before every key of authors' weights, where the model has no such names."""
    head = next(iter(weights)).partition('.')[0] + '.'
    strange = head in ('model.', 'net.', 'network.') and not any(key.startswith(head) for key in own)
    return head if strange and all(key.startswith(head) for key in weights) else ''


def fit_types(module: nn.Module, weights: Weights, name: str) -> list[str]:
    """Make the types of weights fit a model's, in place.

    Half precision is widened when it is copied. Whole numbers that were rounded to half precision with all else, such
    as indices of relative positions, are replaced by the model's own.

    Returns:
        list[str]: notes for the log.

    Raises:
        InputError: a weight is of whole numbers, as in a quantized checkpoint, where the model's is not.
    """
    own = module.state_dict()
    both = [key for key in weights if key in own]
    narrow, computed = set(), []
    for key in both:
        there, here = weights[key], own[key]
        if here.is_floating_point() and not there.is_floating_point():
            raise InputError(f'checkpoint {name}: {key} is of {_type(there)}, expected {_type(here)}; is it quantized?')
        if there.is_floating_point() and not here.is_floating_point() and here.dim():
            weights[key] = here
            computed.append(key)
        elif here.is_floating_point() and there.element_size() < here.element_size():
            narrow.add(_type(there))
    notes = [f'widened from {" and ".join(sorted(narrow))}'] if narrow else []
    notes += [f'rounded whole numbers in the file, not used: {", ".join(computed[:3])}'] if computed else []
    return notes


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')
