"""Read a configuration, apply ``--backbone`` and ``--cfg-options`` to it, and identify it."""

import difflib
import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from mmbackbones.engine.names import run_name
from mmbackbones.engine.options import Options, Overrides, parse_options
from mmbackbones.engine.swap import swap_backbone
from mmbackbones.errors import InputError
from mmbackbones.layers.arms import ARMS, Mixers, arm_name, spell_out
from mmbackbones.paths import find_config

__all__ = ['Overrides', 'arm_of_config', 'config_hash', 'load_config', 'parse_options', 'run_name']

# Optional keys of a configuration beside the arguments of the Runner.
OWN_KEYS = (
    'auto_scale_lr',
    'data_check',
    'find_unused_parameters',
    'load_from_allow',
    'model_wrapper_cfg',
    'recipe',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)
ARM_KEY = 'model.backbone.mixers'
# Keys that say where and on what a run happens. They do not change what it computes.
PLACE_KEYS = (
    'work_dir',
    'launcher',
    'resume',
    'load_from',
    'log_level',
    'data_check',
    'env_cfg',
    'visualizer',
    'vis_backends',
    'default_hooks',
    'model_wrapper_cfg',
)


def load_config(
    path: str | Path, overrides: dict | None = None, backbone: str | None = None, *, needs_backbone: bool = True
) -> Config:
    """Read a configuration, replace its backbone, and merge overrides such as ``{'randomness.seed': 1}`` into it.

    A configuration is Python code and is executed. The name of an arm in ``model.backbone.mixers`` is replaced by its
    mixers, so that both spellings give the same configuration.

    Args:
        path: see :func:`find_config`.
        overrides: values by dotted keys. Texts of the command line in them are read again, because the value that
            they replace decides what they are (see :func:`mmbackbones.engine.options.read_value`).
        backbone: a model of the zoo that replaces the config's backbone, see :func:`swap_backbone`.
        needs_backbone: whether a config without a backbone is refused.

    Raises:
        InputError: the file is missing or faulty; it has no backbone where one is needed; or an override names no key
            of it.
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:
        raise InputError(f'{path}: not a readable config: {_one_line(error)}') from error
    if 'model' not in cfg:
        raise InputError(f'{path}: not a config of a detector or segmentor: it has no key "model"')
    _require_model(cfg, path, needs_backbone=False)
    if backbone is not None:
        swap_backbone(cfg, backbone)
    for key in overrides or {}:
        if not key.isprintable():
            raise InputError(f'--cfg-options {key!a}: no such key')
        _require_known(cfg, key)
        if isinstance(overrides, Options):
            overrides.read_beside(key, _present(cfg, key))
    try:
        cfg.merge_from_dict(overrides or {})
    except Exception as error:
        raise InputError(f'--cfg-options {" ".join(overrides or {})}: {_one_line(error)}') from error
    _require_model(cfg, path, needs_backbone)
    if (found := _mixers(cfg)) is not None:
        cfg.model.backbone['mixers'] = spell_out(*found)
    return cfg


def _require_model(cfg: Config, path: Path, needs_backbone: bool) -> None:
    if not isinstance(cfg.model, dict):
        raise InputError(f'{path}: model={cfg.model!r}: expected a dict')
    backbone = cfg.model.get('backbone')
    if backbone is None and needs_backbone:
        raise InputError(
            f'{path}: a task without a backbone; choose one (--backbone vmamba_tiny_s1l8) or another config'
        )
    if backbone is not None and not isinstance(backbone, dict):
        raise InputError(f'{path}: model.backbone={backbone!r}: expected a dict')


def arm_of_config(cfg: Config) -> str | None:
    """Name of the arm if the backbone belongs to the controlled experiment, else None."""
    found = _mixers(cfg)
    return None if found is None else arm_name(*found)


def _mixers(cfg: Config) -> tuple[str, Mixers, Sequence[int] | None] | None:
    """Class, mixers and blocks per stage (None if the config does not state them) of a controlled network."""
    backbone: dict = cfg.model.get('backbone') or {}
    network = str(backbone.get('type')).rpartition('.')[2]
    if network not in ARMS or 'mixers' not in backbone:
        return None
    arch = backbone.get('arch')
    return network, backbone['mixers'], arch.get('depths') if isinstance(arch, dict) else None


def _require_known(cfg: Config, key: str) -> None:
    """Refuse an option that would create an unused key, such as a misspelt one.

    The last part may be new beside a ``type``, because the constructor checks it.
    """
    *parents, leaf = key.split('.')
    node, walked = cfg._cfg_dict, ''
    for part in parents:
        node = _child(node, part, key, walked)
        walked += f'{part}.'
    if isinstance(node, list | tuple):
        _child(node, leaf, key, walked)
        return
    if not isinstance(node, dict):
        raise InputError(f'--cfg-options {key}: {walked[:-1]} is no dict, so it has no key {leaf!r}')
    if leaf in node or 'type' in node or (walked and walked.split('.')[0].endswith('_dataloader')):
        return
    known = list(node)
    if walked in ('', 'randomness.'):
        reader = Runner.set_randomness if walked else Runner.__init__
        known += [name for name in inspect.signature(reader).parameters if name != 'self']
        known += OWN_KEYS if not walked else ()
        if leaf in known:
            return
    raise InputError(f'--cfg-options {key}: no such key{_nearest(leaf, known)}')


def _child(node: object, part: str, key: str, walked: str) -> object:
    if isinstance(node, list | tuple):
        if not part.isdecimal() or int(part) >= len(node):
            raise InputError(f'--cfg-options {key}: {walked[:-1]} is a list of {len(node)}, {part!r} is no index of it')
        return node[int(part)]
    if not isinstance(node, dict):
        raise InputError(f'--cfg-options {key}: {walked[:-1]} is no dict, so it has no key {part!r}')
    if part not in node:
        raise InputError(f'--cfg-options {key}: no such key as {walked}{part}{_nearest(part, list(node))}')
    return node[part] if node[part] is not None else ConfigDict()


def _present(cfg: Config, key: str) -> object:
    """The value at a key that :func:`_require_known` has let pass, or None."""
    *parents, leaf = key.split('.')
    node, walked = cfg._cfg_dict, ''
    for part in parents:
        node = _child(node, part, key, walked)
        walked += f'{part}.'
    return _child(node, leaf, key, walked) if isinstance(node, list | tuple) else node.get(leaf)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean {near[0]!r}?' if near else f'; known here: {", ".join(sorted(known))}'


def config_hash(cfg: Config) -> str:
    """First 12 hex digits of the SHA-256 of ``cfg`` without the keys that say where and on what it runs."""
    content = Config({key: value for key, value in cfg._cfg_dict.items() if key not in PLACE_KEYS})
    return hashlib.sha256(content.pretty_text.encode()).hexdigest()[:12]


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
