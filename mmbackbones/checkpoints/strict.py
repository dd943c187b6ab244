"""Loading that is loud: every key that does not fit stops the run and is listed, unless it was named beforehand."""

import re
from collections import OrderedDict
from dataclasses import dataclass

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmbackbones.errors import InputError


@dataclass(frozen=True)
class Loaded:
    """What a load did: the keys that were set, those left as they were, those of the file that nobody took."""

    keys: list[str]
    fresh: list[str]
    unused: list[str]
    parameters: int

    def __str__(self) -> str:
        text = f'{len(self.keys)} tensors, {self.parameters:,} parameters'
        if self.fresh:
            text += f'; left as initialized: {fold_keys(self.fresh)}'
        if self.unused:
            text += f'; unused: {fold_keys(self.unused)}'
        return text


def unwrap(module: nn.Module) -> nn.Module:
    """The model itself, within the wrappers for distribution and for test-time augmentation."""
    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.module
    return module


def weights_of(checkpoint: dict, name: str) -> OrderedDict[str, Tensor]:
    """The state dict in a checkpoint: under ``state_dict`` or ``model``, or the checkpoint itself.

    ``module.`` before every key, which distributed training leaves, is taken off.

    Raises:
        InputError: no tensors at these places.
    """
    while key := next((key for key in ('state_dict', 'model') if isinstance(checkpoint.get(key), dict)), None):
        checkpoint = checkpoint[key]
    weights = OrderedDict((key, value) for key, value in checkpoint.items() if isinstance(value, Tensor))
    if not weights:
        raise InputError(
            f'checkpoint {name}: no weights under state_dict, model or at the top; it holds '
            f'{", ".join(map(str, checkpoint))[:200]}'
        )
    versions = getattr(checkpoint, '_metadata', None)
    while all(key.startswith('module.') for key in weights):
        weights = OrderedDict((key.removeprefix('module.'), value) for key, value in weights.items())
        versions = versions and {key.removeprefix('module.'): value for key, value in versions.items()}
    if versions:
        weights._metadata = versions
    return weights


def load_strictly(
    module: nn.Module,
    weights: dict[str, Tensor],
    *,
    name: str,
    fresh: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
    hint: str = '',
) -> Loaded:
    """Load a state dict that must fit. The modules' own load hooks run, so what they resize fits.

    Args:
        module (nn.Module): the model, unwrapped.
        weights (dict[str, Tensor]): its state dict.
        name (str): the file, for the message.
        fresh (tuple[str, ...]): prefixes of keys that may be missing.
        unused (tuple[str, ...]): prefixes of keys that may be in excess.
        hint (str): what the message says last.

    Raises:
        InputError: keys are missing, unexpected or of another shape; the message lists them all.
    """
    lists, faults = [], ''
    hook = module.register_load_state_dict_post_hook(lambda _, keys: lists.append(keys))
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # raised for shapes alone, after the hook
        faults = str(error)
    finally:
        hook.remove()
    own = module.state_dict()
    (keys,) = lists
    missing = [key for key in keys.missing_keys if not key.startswith(fresh)]
    unexpected = [key for key in keys.unexpected_keys if not key.startswith(unused)]
    if missing or unexpected or faults:
        raise InputError(_complaint(module, weights, name, missing, unexpected, faults) + hint)
    loaded = [key for key in own if key not in keys.missing_keys]
    parameters = dict(module.named_parameters())
    return Loaded(
        loaded,
        list(keys.missing_keys),
        list(keys.unexpected_keys),
        sum(parameters[key].numel() for key in loaded if key in parameters),
    )


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
    """Write dotted names as brace patterns that say exactly the same, ``stages.{0-3}.norm.{bias,weight}``."""
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
