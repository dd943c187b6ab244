"""A hook that saves checkpoints from which a run resumes exactly."""

import copy
import logging
import os
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook as MMCheckpointHook
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmbackbones.checkpoints.atomic import BACKEND, DelayedRemoval, partial_file, write_whole
from mmbackbones.checkpoints.plain_data import to_plain
from mmbackbones.checkpoints.random_state import get_random_state, set_random_state
from mmbackbones.checkpoints.resume import POINTER
from mmbackbones.engine.hooks.state import learns_from_validation, restore_states, states_of
from mmbackbones.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(MMCheckpointHook):
    """mmengine's hook, with the same arguments and these guarantees.

    * A checkpoint is whole or absent. It is written to a temporary file, read back and renamed. ``NAME.sha256`` beside
      it has its SHA-256. Older checkpoints are removed afterwards. If the file cannot be written, the training stops
      and the older ones stay.
    * ``last_checkpoint`` names it relative to the work dir, so that a work dir can be moved and resumed.
    * It holds plain data only (:func:`mmbackbones.checkpoints.plain_data.to_plain`).
    * It holds the random states of every process. On a CPU with ``num_workers=0`` a resumed run therefore equals the
      uninterrupted one bit for bit. For this, the data loader draws the seeds of its workers from its own generator,
      and validation leaves the random states unchanged.
    * It holds the states of all hooks that have one (:mod:`mmbackbones.engine.hooks.state`), from before the validation
      that follows it. A resumed run repeats that validation if a hook or schedule learns from it, such as
      ``EarlyStoppingHook`` or ``save_best``.
    """

    def __init__(self, *args, backend_args: dict | None = None, **kwargs):
        super().__init__(*args, backend_args=backend_args or dict(backend=BACKEND), **kwargs)
        self._resumed: dict | None = None
        self._before_val: dict | None = None
        self._hooks_before_val: dict[str, dict] = {}
        self._schedules_before_val: list[dict] = []
        self._states: list[dict] = []
        self._keep_before: list[int] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if getattr(runner, 'resuming', False):
            self._resumed = checkpoint.get('progress')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.file_backend = DelayedRemoval(self.file_backend)
        if is_main_process() and Path(self.out_dir).is_dir():
            for leftover in Path(self.out_dir).glob(partial_file(Path('*')).name):
                leftover.unlink()
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = self._here(self.best_ckpt_path)
        elif self.save_best:
            self.best_ckpt_path_dict = {key: self._here(path) for key, path in self.best_ckpt_path_dict.items()}
        loader = runner.train_dataloader
        if loader.generator is None:
            loader.generator = torch.Generator().manual_seed(runner.seed)
        if self._resumed:
            self._resume_sampler(runner, loader)
            restore_states(runner, self._resumed.get('hooks'))
            if learns_from_validation(runner) and _before_its_validation(runner):
                print_log('repeating the validation that follows the checkpoint', logger='current')
                self._restore_random_state(self._resumed)  # in case this validation is interrupted and saves
                runner.val_loop.run()

    def _here(self, path: str | None) -> str | None:
        """Map a path that a checkpoint names to this work dir, because the file may be moved or crafted."""
        return path and self.file_backend.join_path(self.out_dir, Path(path).name)

    def _resume_sampler(self, runner: Runner, loader: torch.utils.data.DataLoader) -> None:
        sampler = _sampler_of(loader)
        seed = self._resumed.get('sampler_seed')
        if isinstance(seed, int) and hasattr(sampler, 'seed'):
            sampler.seed = seed
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and loop.iter != loop.epoch * len(loader):
            print_log(
                f'resumed in the middle of an epoch, at iteration {loop.iter}: epoch {loop.epoch + 1} begins '
                'anew, and its first iterations happen twice',
                logger='current',
                level=logging.WARNING,
            )

    def before_train_epoch(self, runner: Runner) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed:
            self._restore_random_state(resumed)

    def _restore_random_state(self, resumed: dict) -> None:
        states = resumed.get('random_states')
        if isinstance(states, list) and len(states) == get_world_size():
            set_random_state(states[get_rank()])
        else:
            print_log(
                'resumed with another number of processes: the random states begin anew',
                logger='current',
                level=logging.WARNING,
            )

    def before_val(self, runner: Runner) -> None:
        self._before_val = get_random_state()
        self._hooks_before_val = states_of(runner)
        schedules = runner.param_schedulers
        built = isinstance(schedules, list) and all(hasattr(schedule, 'state_dict') for schedule in schedules)
        self._schedules_before_val = copy.deepcopy([each.state_dict() for each in schedules]) if built else []

    def after_val(self, runner: Runner) -> None:
        set_random_state(self._before_val)
        self._before_val = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'optimizer' in checkpoint:
            seed = getattr(_sampler_of(runner.train_dataloader), 'seed', None)
            in_validation = self._before_val is not None
            hooks = self._hooks_before_val if in_validation else states_of(runner)
            checkpoint['progress'] = dict(random_states=self._states, sampler_seed=seed, hooks=hooks)
            if in_validation and self._schedules_before_val and 'param_schedulers' in checkpoint:
                checkpoint['param_schedulers'] = self._schedules_before_val
        if self._keep_before:  # a run that dies before it removes the outdated one removes it when it is resumed
            info = checkpoint['message_hub']['runtime_info']
            info['keep_ckpt_ids'] = list(dict.fromkeys(self._keep_before + info.get('keep_ckpt_ids', [])))
        for key in list(checkpoint):
            checkpoint[key], dropped = to_plain(checkpoint[key], key)
            if dropped:
                print_log(
                    f'not saved, being no plain data: {", ".join(dropped)}', logger='current', level=logging.WARNING
                )

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, unless this validation has no such score, as when nothing was detected."""
        absent = [name for name in self.save_best or () if name != 'auto' and name not in metrics]
        if absent:
            print_log(
                f'save_best: this validation reports no {", ".join(absent)}, so no checkpoint is judged',
                logger='current',
                level=logging.WARNING,
            )
            return
        super()._save_best_checkpoint(runner, metrics)

    def save_now(self, runner: Runner, finished: bool) -> Path | None:
        """Save outside the schedule, if the training loop can resume from this point.

        Args:
            runner (Runner): the runner, in training or validation.
            finished (bool): whether the loop has counted the last iteration, as it has in validation.

        Returns:
            Path | None: the newest checkpoint: this one or, within an epoch, that of the last finished epoch.
        """
        step = (runner.epoch if self.by_epoch else runner.iter) + (not finished and not self.by_epoch)
        in_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop) and not finished
        name = self.filename_tmpl.format(step)
        if not in_epoch and (self.last_ckpt is None or Path(self.last_ckpt).name != name):
            # In validation the model and its average have changed places.
            averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook) and self._before_val is not None]
            for hook in averages:
                hook._swap_ema_parameters()
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter + (not finished)))
            for hook in averages:
                hook._swap_ema_parameters()
        return self.last_ckpt and Path(self.last_ckpt)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._states = all_gather_object(self._before_val or get_random_state())
        self._keep_before = list(getattr(self, 'keep_ckpt_ids', ()))
        super()._save_checkpoint_with_step(runner, step, meta)
        if not is_main_process():
            return
        relative = os.path.relpath(self.last_ckpt, runner.work_dir)
        write_whole(Path(runner.work_dir, POINTER), relative.encode())
        self.file_backend.really_remove()


def _before_its_validation(runner: Runner) -> bool:
    """Whether a resumed training stands where it validates."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    if runner.val_loop is None or not isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
        return False
    if by_epoch and loop.iter != loop.epoch * len(loop.dataloader):
        return False
    loop._decide_current_val_interval()
    step, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    return step >= max(loop.val_begin, 1) and (step % loop.val_interval == 0 or step == end)


def _sampler_of(loader: torch.utils.data.DataLoader) -> torch.utils.data.Sampler:
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)
