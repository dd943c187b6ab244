"""Settings of loops, data loaders and evaluators that cannot work, by the configuration alone."""

import re
from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, Registry

from mmbackbones.datasets.check.specs import datasets_below
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import TASKS, task_of

PARTS = dict(
    train=('train_dataloader', 'train_cfg', 'optim_wrapper'),
    val=('val_dataloader', 'val_cfg', 'val_evaluator'),
    test=('test_dataloader', 'test_cfg', 'test_evaluator'),
)
WORKER_OPTIONS = ('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')
FRAMEWORKS = {task: framework for framework, task in TASKS.items()}
LOOPS = dict(EpochBasedTrainLoop='max_epochs', IterBasedTrainLoop='max_iters')
BOTH_TASKS = re.compile('Seg|Panoptic')  # mmdet's classes for masks of the whole image


def require_workable(cfg: Config, training: bool) -> None:
    """Refuse settings that torch or mmengine would refuse later, or that can never end.

    Args:
        cfg (Config): the configuration, adapted to the machine.
        training (bool): whether there is a training before the test.

    Raises:
        InputError: it names the first such key.
    """
    needed = dict(train=training, val=False, test=True)
    whole = [split for split in PARTS if _is_whole(cfg, split, needed[split])]
    if training:
        _require_length(cfg)
        _require_units(cfg)
    for split in whole:
        _require_loader(cfg, split)
        _require_task(cfg, split)


def is_epoch_based(train_cfg: Mapping) -> bool:
    """Whether a training counts epochs."""
    return train_cfg.get('max_epochs') is not None


def schedulers_of(cfg: Config) -> list[tuple[str, Mapping]]:
    """Key and settings of every parameter scheduler; none if several optimizers have schedulers of their own."""
    given = cfg.get('param_scheduler') or []
    if isinstance(given, Mapping):
        return [('param_scheduler', given)] if 'type' in given else []
    return [(f'param_scheduler.{i}', item) for i, item in enumerate(given) if isinstance(item, Mapping)]


def _is_whole(cfg: Config, split: str, needed: bool) -> bool:
    missing = [key for key in PARTS[split] if cfg.get(key) is None]
    if missing and (needed or len(missing) < len(PARTS[split])):
        others = ' and '.join(key for key in PARTS[split] if key != missing[0])
        raise InputError(f'{missing[0]} is not set; it is needed beside {others}')
    return not missing


def _require_loader(cfg: Config, split: str) -> None:
    name = f'{split}_dataloader'
    loader = cfg[name]
    if not isinstance(loader, Mapping):
        raise InputError(f'{name}={loader!r}: expected a dict')
    for key in ('dataset', 'sampler'):
        if loader.get(key) is None:
            raise InputError(f'{name}.{key} is not set')
    workers = loader.get('num_workers', 0)
    _require_count(f'{name}.num_workers', workers, least=0)
    if 'batch_size' in loader or not loader.get('batch_sampler'):
        _require_count(f'{name}.batch_size', loader.get('batch_size', 1), least=1)
    for key in WORKER_OPTIONS if workers == 0 else ():
        if loader.get(key):
            raise InputError(
                f'{name}.{key}={loader[key]!r} needs worker processes, but {name}.num_workers=0: set it to 1 or more, '
                f'or {name}.{key} to {False if key == "persistent_workers" else None if key != "timeout" else 0}'
            )
    if loader.get('shuffle'):
        raise InputError(f'{name}.shuffle={loader["shuffle"]}: the sampler decides, so set {name}.sampler.shuffle')
    if loader.get('drop_last') and loader.get('batch_sampler'):
        raise InputError(
            f'{name}.drop_last={loader["drop_last"]}: the batch sampler decides, so set {name}.batch_sampler.drop_last'
        )
    sampler = _short_name(loader['sampler'].get('type')) if isinstance(loader['sampler'], Mapping) else ''
    if sampler == 'InfiniteSampler' and (split != 'train' or is_epoch_based(cfg.train_cfg)):
        loop = 'an epoch-based training' if split == 'train' else f'{split}_cfg'
        raise InputError(f'{name}.sampler.type=InfiniteSampler: {loop} would never end; expected DefaultSampler')


def _require_count(key: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f'{key}={value!r}: expected an integer from {least}')


def _require_task(cfg: Config, split: str) -> None:
    """Refuse a data set or an evaluator of the other task. The frameworks would fail after the training."""
    task = task_of(cfg)
    own = FRAMEWORKS[task]
    model = cfg.model.get('module', cfg.model).get('type')
    named = [
        (f'{split}_dataloader.dataset.type', DATASETS, item) for item in datasets_below(cfg[f'{split}_dataloader'])
    ]
    if split != 'train':
        key = f'{split}_evaluator'
        named += [(f'{key}.type', METRICS, item) for item in _metrics(cfg[key])]
    for key, registry, item in named:
        cls = _class_of(item['type'], registry, cfg.get('default_scope'))
        other = _framework(cls) if cls else None
        if cls and other not in (None, own) and not BOTH_TASKS.search(cls.__name__):
            raise InputError(
                f'{key}={_short_name(item["type"])} is for {TASKS[other]}, '
                f'but model.type={_short_name(model)} is for {task}'
            )


def _metrics(evaluator: object) -> Iterator[Mapping]:
    if isinstance(evaluator, Mapping) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    for item in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
        if isinstance(item, Mapping) and item.get('type'):
            yield item


def _class_of(kind: object, registry: Registry, scope: str | None) -> type | None:
    if isinstance(kind, str):
        with registry.switch_scope_and_registry(scope) as found:
            kind = found.get(kind)
    return kind if isinstance(kind, type) else None


def _framework(cls: type) -> str | None:
    packages = (base.__module__.partition('.')[0] for base in cls.__mro__)
    return next((package for package in packages if package in FRAMEWORKS.values()), None)


def _short_name(kind: object) -> str:
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def _require_length(cfg: Config) -> None:
    loop = _short_name(cfg.train_cfg.get('type', ''))
    if loop not in ('', *LOOPS):
        return  # a loop of the user's own has a length of its own
    given = [key for key in ('max_epochs', 'max_iters') if cfg.train_cfg.get(key) is not None]
    if len(given) != 1:
        raise InputError(
            f'train_cfg has {" and ".join(given) or "neither max_epochs nor max_iters"}: expected max_epochs for '
            'EpochBasedTrainLoop, or max_iters for IterBasedTrainLoop'
        )
    _require_count(f'train_cfg.{given[0]}', cfg.train_cfg[given[0]], least=0)  # 0: a test of the initial weights
    if loop and LOOPS[loop] != given[0]:
        raise InputError(f'train_cfg.{given[0]} is set, but train_cfg.type={loop} takes {LOOPS[loop]}')
    if 'val_interval' in cfg.train_cfg:
        _require_count('train_cfg.val_interval', cfg.train_cfg.val_interval, least=1)


def _require_units(cfg: Config) -> None:
    """A schedule that counts epochs never takes a step in a training that counts iterations."""
    if is_epoch_based(cfg.train_cfg) or cfg.train_cfg.get('max_iters') is None:
        return
    for key, scheduler in schedulers_of(cfg):
        if scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based'):
            raise InputError(
                f'{key}.by_epoch={scheduler.get("by_epoch")}: {_short_name(scheduler.get("type"))} would count epochs, '
                'but train_cfg.max_iters counts iterations, so it would never take a step; set it to False'
            )
