"""The runner of our commands: mmengine's, with strict loading that executes no code."""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook, ProfilerHook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMRunner

from mmbackbones.checkpoints.atomic import cannot_write, write_whole
from mmbackbones.checkpoints.layout import find_weights, rename, to_names_of
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.read import MapLocation
from mmbackbones.checkpoints.resume import require_resumable
from mmbackbones.checkpoints.strict import load_weights, unwrap
from mmbackbones.engine.checks import require_trained_classes
from mmbackbones.engine.preflight.images import NamesImages
from mmbackbones.errors import InputError
from mmbackbones.registry import HOOKS, RUNNERS


@RUNNERS.register_module()
class Runner(NamesImages, MMRunner):
    """mmengine's runner, except that a checkpoint for testing, resuming or ``load_from`` must fit the model.

    To fine-tune a model to another number of classes, the config names the prefixes of the layers that differ, as in
    ``load_from_allow = ['roi_head.bbox_head.fc_cls', 'decode_head.conv_seg']``. They keep their initialization, and the
    log lists them. This applies to ``load_from`` of a training only.

    The backbone's weights may have their authors' names: released detectors and segmentors load as they are.

    The configuration text in a checkpoint is left out, because mmengine executes it on resuming. Objects of foreign
    code are left out, too. The smoothed losses that mmengine's hook saves are such objects; they start anew.
    """

    _resuming = False

    def __init__(self, *args, recipe: Config | None = None, **kwargs):
        self._recipe = recipe
        super().__init__(*args, **kwargs)

    @classmethod
    def from_cfg(cls, cfg: Config, recipe: Config | None = None) -> 'Runner':
        """Build a runner.

        Args:
            cfg (Config): the configuration as it runs on this machine.
            recipe (Config, optional): the configuration as asked for, which :meth:`save_recipe` saves. By default
                ``cfg`` is saved, at once.
        """
        cfg = copy.deepcopy(cfg)
        wanted = inspect.signature(MMRunner.__init__).parameters
        return cls(**{key: value for key, value in cfg.items() if key in wanted}, cfg=cfg, recipe=recipe)

    def dump_config(self) -> None:
        """Save the configuration as mmengine does, if no recipe is to be saved in its place."""
        if self._recipe is None:
            super().dump_config()

    def save_recipe(self, replace: bool) -> None:
        """Save the configuration as asked for in the work dir, under the name of its file.

        Args:
            replace (bool): whether an earlier one is replaced.

        Raises:
            InputError: the file cannot be written.
        """
        if self._recipe is None or not is_main_process():
            return
        path = Path(self.work_dir, Path(self._recipe.filename or f'{self.timestamp}.py').name)
        if path.exists() and not replace:
            return
        try:
            write_whole(path, self._recipe.dump().encode())
        except OSError as error:
            raise InputError(f'cannot write {path}: {error.strerror or error}') from error

    def register_custom_hooks(self, hooks: list[Hook | dict]) -> None:
        """Register the hooks. A test has no use for those that stop, average or profile a training.

        An EMA hook would replace the weights of a test-time augmentation by random ones, and the others end a run
        without training loop.
        """
        for hook in hooks:
            priority = None
            if isinstance(hook, dict):
                priority = hook.get('priority')  # of the runner's list, no argument of the hook
                hook = HOOKS.build({key: value for key, value in hook.items() if key != 'priority'})
            if self._train_loop is not None or not isinstance(hook, EMAHook | EarlyStoppingHook | ProfilerHook):
                self.register_hook(hook, priority)

    @property
    def resuming(self) -> bool:
        """Whether a checkpoint is being read to resume a training."""
        return self._resuming

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate to the number of images in one step of the optimizer.

        mmengine does not count the images that ``accumulative_counts`` collects.
        """
        steps = getattr(optim_wrapper, '_accumulative_counts', 1)
        if steps > 1 and auto_scale_lr and auto_scale_lr.get('enable'):
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=auto_scale_lr['base_batch_size'] / steps)
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def _init_model_weights(self) -> None:
        """Initialize the weights as mmengine does, without its two lines of log for each of a thousand parameters."""
        model = unwrap(self.model)
        model._dump_init_info = lambda: None
        try:
            super()._init_model_weights()
        finally:
            del model._dump_init_info

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Save as mmengine does.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
        except OSError as error:
            raise cannot_write(Path(out_dir, filename), error) from error

    def load_checkpoint(
        self,
        filename: str,
        map_location: MapLocation = 'cpu',
        strict: bool = True,
        revise_keys: Sequence[tuple[str, str]] = (),
    ) -> dict:
        """Load weights into the model.

        Args:
            filename (str): see :func:`mmbackbones.checkpoints.load.load_checkpoint`.
            map_location: device of the tensors before they are copied into the model.
            strict (bool): False: keys may be missing, unexpected or of another shape.
            revise_keys (Sequence[tuple[str, str]]): rules of ``re.sub`` for the keys.

        Returns:
            dict: the content of the checkpoint, as plain data.

        Raises:
            InputError: the file cannot be read, or keys are missing, unexpected or of another shape; the message lists
                them all. On resuming also if the file has no state of a training.
        """
        checkpoint = load_checkpoint(filename, map_location)
        content, left_out = checkpoint
        if isinstance(content.get('meta'), dict):
            content['meta'].pop('config', None)
        if self._resuming:
            require_resumable(checkpoint, filename, self.param_schedulers is not None)
        training = isinstance(self._train_loop, BaseLoop)  # a dict until train() builds it
        fine_tuning = training and not self._resuming
        if not training and self.test_loop is not None:
            require_trained_classes(content.get('meta'), self.test_dataloader.dataset, filename)
        allowed = tuple(self.cfg.get('load_from_allow', ())) if fine_tuning else ()
        if not strict:
            allowed = ('',)
        weights, notes = find_weights(content, filename)
        if revise_keys:
            weights = rename(weights, revise_keys)
        model, layout = unwrap(self.model), 'own names'
        if not self._resuming:
            weights, layout = to_names_of(model, weights, filename)
        content['state_dict'] = weights  # where hooks look for it, such as EMAHook
        self.call_hook('after_load_checkpoint', checkpoint=content)
        loaded = load_weights(
            model,
            content['state_dict'],
            name=filename,
            layout=layout,
            allowed_missing=allowed,
            allowed_unexpected=allowed,
            allowed_misshapen=allowed,
            hint='; prefixes of layers that are meant to differ go into load_from_allow' if fine_tuning else '',
            notes=[] if self._resuming else notes,
        )
        self._has_loaded = True
        note = f'; objects of foreign code left out: {len(left_out)}' if left_out else ''
        print_log(f'{loaded}{note}', logger='current')
        return content

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume a training; see mmengine for the arguments.

        Raises:
            InputError: see :meth:`load_checkpoint`.
        """
        self._resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False
