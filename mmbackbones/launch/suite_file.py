"""Reading a suite file: which trainings an experiment consists of.

A suite is a YAML file::

    tasks: [configs/tasks/mask-rcnn_1x_coco.py]     # each with each of
    backbones: [mambaout_tiny, vmamba_tiny_s1l8]    # these models of the zoo
    configs: [configs/….py, …]                      # and configs as they are
    arms: [none, ss2d-last2]                        # each of them with each of these token mixers
    seeds: [0, 1, 2]
    gpus: 8                                         # processes per run; 0: on the CPU
    multi_scale: true                               # test segmentors at several scales too
    cfg_options: [train_cfg.max_iters=20]           # for every run, as on the command line
    slurm: {slurm_partition: gpu, timeout_min: 2880}

``groups`` holds a list of mappings with the first four keys, where not everything goes with everything. Configs are
paths, or names below the packaged configs. ``slurm`` holds submitit's parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mmbackbones.engine.config import ARM_KEY, arm_of_config, load_config, parse_options, run_name
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of
from mmbackbones.layers.arms import ARMS

GROUP_KEYS = ('configs', 'tasks', 'backbones', 'arms')
KEYS = (*GROUP_KEYS, 'groups', 'seeds', 'gpus', 'multi_scale', 'cfg_options', 'slurm')


@dataclass(frozen=True)
class Training:
    """One training of a suite, whatever its seed.

    Attributes:
        config (str): config file as the suite names it.
        backbone (str | None): model of the zoo that it is given.
        arm (str | None): token mixers that it is given.
        task (str): ``'detection'`` or ``'segmentation'``.
    """

    config: str
    backbone: str | None
    arm: str | None
    task: str

    @property
    def name(self) -> str:
        return run_name(self.config, self.backbone, self.arm)

    @property
    def options(self) -> list[str]:
        """``KEY=VALUE`` overrides that put the arm in."""
        return [f'{ARM_KEY}={self.arm}'] if self.arm else []


@dataclass(frozen=True)
class SuiteFile:
    """What a suite file says.

    Attributes:
        trainings (list[Training]): in the order of the file.
        seeds (list[int]): of each.
        options (list[str]): ``KEY=VALUE`` overrides of all.
        gpus (int): processes of a run; 0: one, on the CPU.
        multi_scale (bool): whether segmentors are tested at several scales too.
        slurm (dict): submitit's parameters.
    """

    trainings: list[Training]
    seeds: list[int]
    options: list[str] = field(default_factory=list)
    gpus: int = 0
    multi_scale: bool = False
    slurm: dict = field(default_factory=dict)


def read_suite(path: str | Path) -> SuiteFile:
    """Read a suite file, and every config that it names.

    Raises:
        InputError: the file, a key, a config, a backbone or an arm of it is at fault.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f'{path}: no such suite file') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: not a readable YAML file: {" ".join(str(error).split())}') from None
    _require_keys(content, KEYS, str(path))
    groups = content.get('groups', [])
    if not isinstance(groups, list):
        raise InputError(f'{path}: groups: expected a list')
    for number, group in enumerate(groups, 1):
        _require_keys(group, GROUP_KEYS, f'{path}: group {number}')
    own = {key: content[key] for key in GROUP_KEYS if key in content}
    groups = [*([own] if own else []), *groups]
    options = _list_of(str, content, 'cfg_options', path, default=[])
    gpus, multi_scale, slurm = content.get('gpus', 0), content.get('multi_scale', False), content.get('slurm') or {}
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 0:
        raise InputError(f'{path}: gpus={gpus}: expected a number of processes, 0 for the CPU')
    if not isinstance(multi_scale, bool):
        raise InputError(f'{path}: multi_scale={multi_scale}: expected true or false')
    if not isinstance(slurm, dict):
        raise InputError(f'{path}: slurm: expected a mapping of submitit parameters')
    seeds = _list_of(int, content, 'seeds', path)
    if not groups:
        raise InputError(f'{path}: configs: expected a list, or tasks and backbones')
    trainings = [training for group in groups for training in _trainings(group, options, path)]
    return SuiteFile(trainings, seeds, options, gpus, multi_scale, slurm)


def _trainings(group: dict, options: list[str], path: str | Path) -> Iterator[Training]:
    if 'tasks' not in group and 'backbones' not in group and 'configs' not in group:
        raise InputError(f'{path}: arms: expected configs, or tasks and backbones, beside them')
    pairs = [(config, None) for config in _list_of(str, group, 'configs', path, default=[])]
    if 'tasks' in group or 'backbones' in group:
        names = _list_of(str, group, 'backbones', path)
        pairs = [(task, name) for task in _list_of(str, group, 'tasks', path) for name in names] + pairs
    if not pairs:
        raise InputError(f'{path}: configs: expected a list')
    arms = _list_of(str, group, 'arms', path) if 'arms' in group else [None]
    for config, backbone in pairs:
        cfg = load_config(config, parse_options(options), backbone)
        network = cfg.model.backbone.type.rpartition('.')[2]
        for arm in arms:
            if arm is not None and (arm_of_config(cfg) is None or arm not in ARMS[network]):
                known = f'known: {", ".join(ARMS[network])}' if network in ARMS else f'{network} has none'
                raise InputError(f'{path}: arms: {arm} is no arm of {config}; {known}')
            yield Training(config, backbone, arm, task_of(cfg))


def _require_keys(content: object, known: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise InputError(f'{where}: expected a mapping with the keys {", ".join(known)}')
    if unknown := [key for key in content if key not in known]:
        raise InputError(f'{where}: unknown key {unknown[0]!r}; known: {", ".join(known)}')


def _list_of(kind: type, content: dict, key: str, path: str | Path, default: list | None = None) -> list:
    values = content.get(key, default)
    if not isinstance(values, list) or (not values and default is None):
        raise InputError(f'{path}: {key}: expected a list')
    for value in values:
        if type(value) is not kind:
            raise InputError(f'{path}: {key}: {value!r}: expected {kind.__name__}')
    return values
