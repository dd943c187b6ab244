"""Read a suite file, the list of an experiment's trainings.

A suite is a YAML file::

    tasks: [configs/tasks/mask-rcnn_1x_coco.py]     # every task is combined
    backbones: [mambaout_tiny, vmamba_tiny_s1l8]    # with every backbone of the zoo
    configs: [configs/….py, …]                      # configs with their own backbones
    arms: [none, ss2d-last2]                        # every training is combined with every arm
    seeds: [0, 1, 2]
    gpus: 8                                         # processes per run; 0: on the CPU
    multi_scale: true                               # also test segmentors at several scales
    cfg_options: [train_cfg.max_iters=20]           # options of every run, as on the command line
    slurm: {slurm_partition: gpu, timeout_min: 2880}

If only some combinations are wanted, ``groups`` is a list of mappings with the first four keys. Configs are paths, or
names below the packaged configs. ``slurm`` has submitit's parameters.
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
    """One training of a suite, for all seeds.

    Attributes:
        config (str): config file as the suite names it.
        backbone (str | None): model of the zoo that replaces the config's backbone.
        arm (str | None): arm that replaces the config's token mixers.
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
        """``KEY=VALUE`` overrides that select the arm."""
        return [f'{ARM_KEY}={self.arm}'] if self.arm else []


@dataclass(frozen=True)
class SuiteFile:
    """The content of a suite file.

    Attributes:
        trainings (list[Training]): in the order of the file.
        seeds (list[int]): seeds of each training.
        options (list[str]): ``KEY=VALUE`` overrides of all trainings.
        gpus (int): number of processes of a run; 0: one, on the CPU.
        multi_scale (bool): whether segmentors are also tested at several scales.
        slurm (dict): submitit's parameters.
    """

    trainings: list[Training]
    seeds: list[int]
    options: list[str] = field(default_factory=list)
    gpus: int = 0
    multi_scale: bool = False
    slurm: dict = field(default_factory=dict)


def read_suite(path: str | Path) -> SuiteFile:
    """Read a suite file and every config that it names.

    Raises:
        InputError: the file, or a key, config, backbone or arm in it is faulty.
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
