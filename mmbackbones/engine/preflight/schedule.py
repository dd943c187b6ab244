"""Schedules and intervals that do not fit the length of a training."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config

from mmbackbones.engine.preflight.settings import is_epoch_based, schedulers_of


def schedule_notes(cfg: Config, epoch_length: int) -> Iterator[str]:
    """One sentence for each mistake, of the learning rate, the validation and the checkpoints.

    Args:
        cfg (Config): the configuration of a training.
        epoch_length (int): iterations of an epoch.
    """
    by_epoch = is_epoch_based(cfg.train_cfg)
    if not by_epoch and cfg.train_cfg.get('max_iters') is None:
        return  # a loop of the user's own
    epochs = cfg.train_cfg.max_epochs if by_epoch else 1
    iterations = epochs * epoch_length if by_epoch else cfg.train_cfg.max_iters
    misfits = [text for key, item in schedulers_of(cfg) for text in _misfits(key, item, epochs, iterations, by_epoch)]
    length = f'train_cfg.max_epochs={epochs}' if by_epoch else f'train_cfg.max_iters={iterations}'
    if by_epoch:
        length += f', {iterations} iterations'
    if misfits:
        yield f'the schedule does not fit the length of the training ({length}): {"; ".join(misfits)}'
    yield from _validation(cfg, epochs if by_epoch else iterations, length)
    yield from _checkpoints(cfg, epochs, iterations, by_epoch, length)


def effective_batch(cfg: Config, world_size: int) -> int:
    """Images in one step of the optimizer: of every process, and of every batch whose gradients are accumulated."""
    return cfg.train_dataloader.batch_size * world_size * (cfg.optim_wrapper.get('accumulative_counts') or 1)


def batch_notes(cfg: Config, world_size: int) -> Iterator[str]:
    """A sentence if the learning rate belongs to another number of images than a step of the optimizer has."""
    scale, steps = cfg.get('auto_scale_lr') or {}, cfg.optim_wrapper.get('accumulative_counts') or 1
    base, images = scale.get('base_batch_size'), effective_batch(cfg, world_size)
    if base and images != base and not scale.get('enable'):
        batch = cfg.train_dataloader.batch_size
        yield (
            f'a step of the optimizer has {images} images (train_dataloader.batch_size={batch} x {world_size} '
            f'processes x optim_wrapper.accumulative_counts={steps}), but its learning rate is for {base}; set '
            'accumulative_counts, or scale the rate by --auto-scale-lr'
        )


def _misfits(key: str, scheduler: Mapping, epochs: int, iterations: int, by_epoch: bool) -> Iterator[str]:
    counts_epochs = scheduler.get('by_epoch', True)
    if counts_epochs and not by_epoch:
        return  # convert_to_iter_based
    total = epochs if counts_epochs else iterations
    kind = str(scheduler.get('type')).rpartition('.')[2]
    begin, end = scheduler.get('begin', 0), scheduler.get('end', total)
    milestones = [step for step in scheduler.get('milestones', ()) if begin + step >= total]
    if begin >= total:
        yield f'{key}.begin={begin}, so that {kind} never begins'
    elif _rises(kind, scheduler) and end >= total:
        yield f'{key}.end={end}, so that the training ends inside its warm-up ({kind})'
    elif milestones:
        yield f'{key}.milestones={milestones} are never reached'
    elif end > total and 'milestones' not in scheduler:
        yield f'{key}.end={end}, so that {kind} is cut off'


def _rises(kind: str, scheduler: Mapping) -> bool:
    """Whether it is a warm-up; the defaults are mmengine's."""
    if kind in ('LinearLR', 'LinearParamScheduler'):
        return scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0)
    return kind in ('ConstantLR', 'ConstantParamScheduler') and scheduler.get('factor', 1 / 3) < 1


def _validation(cfg: Config, total: int, length: str) -> Iterator[str]:
    if cfg.get('val_dataloader') is None:
        for key, value in _needs_validation(cfg):
            yield f'{key}={value} has no effect, because nothing is validated: val_dataloader is not set'
        return
    if cfg.train_cfg.get('dynamic_intervals'):
        return
    interval = cfg.train_cfg.get('val_interval', 1 if is_epoch_based(cfg.train_cfg) else 1000)
    begin = cfg.train_cfg.get('val_begin', 1)
    if begin > total:
        yield f'train_cfg.val_begin={begin} lies beyond the training ({length}): it is never validated'
    elif interval > total:
        yield f'train_cfg.val_interval={interval} is longer than the training ({length}): only its end is validated'


def _needs_validation(cfg: Config) -> Iterator[tuple[str, object]]:
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('save_best'):
        yield 'default_hooks.checkpoint.save_best', checkpoint['save_best']
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if isinstance(hook, Mapping) and str(hook.get('type')).endswith('EarlyStoppingHook'):
            yield f'custom_hooks.{i}.type', 'EarlyStoppingHook'


def _checkpoints(cfg: Config, epochs: int, iterations: int, by_epoch: bool, length: str) -> Iterator[str]:
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if not isinstance(hook, Mapping):
        return
    key, interval, counts_epochs = 'default_hooks.checkpoint', hook.get('interval', -1), hook.get('by_epoch', True)
    kept = 'only the last state is saved' if hook.get('save_last', True) else 'no checkpoint is saved'
    if counts_epochs and not by_epoch:
        if interval > 0:
            yield f'{key}.by_epoch=True, but the training counts iterations ({length}): {kept}'
    elif interval > (epochs if counts_epochs else iterations):
        yield f'{key}.interval={interval} is longer than the training ({length}): {kept}'
    if interval <= 0 and not hook.get('save_last', True):
        yield f'{key}.interval={interval} and save_last=False: {kept}'
