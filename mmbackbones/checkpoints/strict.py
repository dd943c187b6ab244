"""Strict loading: a missing, unexpected or mis-shaped key stops the run and is listed, unless its prefix is allowed."""

import re
from collections.abc import Iterable

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmbackbones.checkpoints.layout import fit_types, to_names_of
from mmbackbones.errors import InputError


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside the wrappers for distribution and for test-time augmentation."""
    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.module
    return module


def load_weights(
    module: nn.Module,
    weights: dict[str, Tensor],
    *,
    name: str,
    prefix: str | None = None,
    layout: str | None = None,
    allowed_missing: tuple[str, ...] = (),
    allowed_unexpected: tuple[str, ...] = (),
    allowed_misshapen: tuple[str, ...] = (),
    hint: str = '',
    notes: Iterable[str] = (),
) -> str:
    """Rename weights to a model's names and load them. Only keys with allowed prefixes may fail to fit.

    The load hooks of the modules run, so that weights which they resize fit.

    Args:
        module (nn.Module): the model, unwrapped.
        weights (dict[str, Tensor]): the state dict of a checkpoint. Keys that count as missing are removed from it.
        name (str): the file, for the messages.
        prefix (str, optional): take only the keys under this prefix.
        layout (str, optional): the layout of a file whose keys are the model's names already, as on resuming.
        allowed_missing (tuple[str, ...]): prefixes of keys that the file may lack.
        allowed_unexpected (tuple[str, ...]): prefixes of keys that the model may lack.
        allowed_misshapen (tuple[str, ...]): prefixes of keys that count as missing if their shapes differ.
        hint (str): end of the error message.
        notes (Iterable[str]): what the sentence for the log also says of the weights.

    Returns:
        str: a sentence for the log.

    Raises:
        InputError: keys are missing, unexpected or of another shape; the message lists them all. See also
            :func:`mmbackbones.checkpoints.layout.to_names_of`.
    """
    if layout is None:
        weights, layout = to_names_of(module, weights, name, prefix)
    notes = [*notes, *fit_types(module, weights, name)]
    own = module.state_dict()
    for key in [key for key in weights if key in own and key.startswith(allowed_misshapen)]:
        if weights[key].shape != own[key].shape:
            del weights[key]
    lists, faults = [], ''
    hook = module.register_load_state_dict_post_hook(lambda _, keys: lists.append(keys))
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # raised for shapes alone, after the hook
        faults = str(error)
    finally:
        hook.remove()
    (keys,) = lists
    missing = [key for key in keys.missing_keys if not key.startswith(allowed_missing)]
    unexpected = [key for key in keys.unexpected_keys if not key.startswith(allowed_unexpected)]
    if missing or unexpected or faults:
        raise InputError(_complaint(module, weights, name, missing, unexpected, faults) + hint)
    loaded = [key for key in own if key not in keys.missing_keys]
    parameters = dict(module.named_parameters())
    count = sum(parameters[key].numel() for key in loaded if key in parameters)
    layout = '; '.join([layout, *notes])
    parts = [f'{type(module).__name__}: loaded {name} ({layout}): {len(loaded)} tensors, {count:,} parameters']
    if keys.missing_keys:
        parts.append(f'missing (they keep their initialization): {fold_keys(keys.missing_keys)}')
    if keys.unexpected_keys:
        parts.append(f'unexpected (not used): {fold_keys(keys.unexpected_keys)}')
    return '; '.join(parts)


def _complaint(
    module: nn.Module, weights: dict[str, Tensor], name: str, missing: list[str], unexpected: list[str], faults: str
) -> str:
    own = module.state_dict()
    misshapen = [key for key in re.findall(r'size mismatch for (\S+):', faults) if key in weights]
    if faults and not misshapen:
        misshapen_text = ' '.join(faults.split())
    else:
        by_shapes: dict[tuple, list[str]] = {}
        for key in misshapen:
            by_shapes.setdefault((tuple(weights[key].shape), tuple(own[key].shape)), []).append(key)
        misshapen_text = ', '.join(
            f'{fold_keys(keys)} is {list(there)} in the file and {list(here)} in the model'
            for (there, here), keys in by_shapes.items()
        )
    common = len(own.keys() & weights.keys())
    guess = 'another model or family' if common < len(own) / 4 else 'another variant or setting of this model'
    parts = [f"{common} of the model's {len(own)} keys are in the file, so it looks like {guess}"]
    parts += [f'missing {len(missing)}: {fold_keys(missing)}'] if missing else []
    parts += [f'unexpected {len(unexpected)}: {fold_keys(unexpected)}'] if unexpected else []
    parts += [f'of another shape: {misshapen_text}'] if faults else []
    return f'checkpoint {name} does not fit {type(module).__name__}; ' + '; '.join(parts)


def fold_keys(keys: list[str]) -> str:
    """Write dotted names as equivalent brace patterns, ``stages.{0-3}.norm.{bias,weight}``."""
    tree: dict = {}
    for key in keys:
        node = tree
        for part in key.split('.'):
            node = node.setdefault(part, {})
        node[''] = {}  # the end of a name, which may be the beginning of another
    return ', '.join(_fold(tree))


def _fold(tree: dict) -> list[str]:
    groups: dict[str, list[str]] = {}
    for part, below in sorted(tree.items()):
        if part:
            tails = _fold(below) + ([''] if '' in below and len(below) > 1 else [])
            tail = tails[0] if len(tails) == 1 else '{' + ','.join(tails) + '}' if tails else ''
            groups.setdefault(tail, []).append(part)
    heads = ((_braces(parts), tail) for tail, parts in groups.items())
    return [f'{head}.{tail}' if tail else head for head, tail in heads]


def _braces(parts: list[str]) -> str:
    """``[0, 1, 2, 5]`` -> ``{0-2,5}``; a single name stays bare."""
    if len(parts) == 1:
        return parts[0]
    numbers = sorted(int(part) for part in parts if part.isdigit())
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f'{run[0]}-{run[-1]}' if len(run) > 2 else ','.join(map(str, run)) for run in runs]
    return '{' + ','.join(texts + sorted(part for part in parts if not part.isdigit())) + '}'
