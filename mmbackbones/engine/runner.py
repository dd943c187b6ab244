"""The runner of our commands: mmengine's, with loading that must fit and executes nothing."""

import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMRunner

from mmbackbones.backbones.base import Backbone
from mmbackbones.checkpoints.adapters.whole_model import convert_whole_model
from mmbackbones.checkpoints.load import TRUST, MapLocation, load_checkpoint, strip_inert
from mmbackbones.checkpoints.plain_data import restore_logs
from mmbackbones.checkpoints.strict import load_strictly, unwrap, weights_of
from mmbackbones.engine.hooks.checkpoint import cannot_write, trustworthy_paths
from mmbackbones.errors import InputError
from mmbackbones.registry import RUNNERS


@RUNNERS.register_module()
class Runner(MMRunner):
    """mmengine's runner, except that a checkpoint for testing, resuming or ``load_from`` must fit the model.

    Fine-tuning a model to another number of classes names the prefixes of the layers that differ in the config, as in
    ``load_from_allow = ['roi_head.bbox_head.fc_cls', 'decode_head.conv_seg']``: they keep their initialization, and
    the log lists them. That holds for ``load_from`` of a training alone.

    The backbone's weights may carry the names of its authors: released detectors and segmentors load as they are.

    The configuration text in a checkpoint is left out, because mmengine executes it on resuming. So are objects of
    foreign code; with them go the smoothed losses of a log that mmengine's own hook saved, which begin anew.
    """

    _resuming = False

    @property
    def resuming(self) -> bool:
        """Whether a checkpoint is being read to take up a training again."""
        return self._resuming

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate to the images of one step of the optimizer, which mmengine counts without those that
        ``accumulative_counts`` collects.
        """
        steps = getattr(optim_wrapper, '_accumulative_counts', 1)
        if steps > 1 and auto_scale_lr and auto_scale_lr.get('enable'):
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=auto_scale_lr['base_batch_size'] / steps)
        super().scale_lr(optim_wrapper, auto_scale_lr)

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
        revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
    ) -> dict:
        """Load weights into the model.

        Raises:
            InputError: the file cannot be read, or keys are missing, unexpected or of another shape, all of them
                listed; on resuming also if it holds no state of a training.
        """
        checkpoint, dropped = strip_inert(load_checkpoint(filename, map_location))
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        if self._resuming:
            self._check_resumable(checkpoint, dropped, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)

        training = isinstance(self._train_loop, BaseLoop)  # a dict until train() builds it
        fine_tuning = training and not self._resuming
        allowed = tuple(self.cfg.get('load_from_allow', ())) if fine_tuning else ()
        hint = '; prefixes of layers that are meant to differ go into load_from_allow' if fine_tuning else ''
        weights = weights_of(checkpoint, filename)
        for pattern, replacement in revise_keys:
            for key in [key for key in weights if re.search(pattern, key)]:
                weights[re.sub(pattern, replacement, key)] = weights.pop(key)
        model = unwrap(self.model)
        backbone = getattr(model, 'backbone', None)
        if isinstance(backbone, Backbone) and not self._resuming:
            weights = convert_whole_model(weights, backbone.convert_state_dict)
        if not strict:
            allowed = ('',)
        own = model.state_dict()
        for key in [key for key in weights if key in own and key.startswith(allowed)]:
            if weights[key].shape != own[key].shape:
                del weights[key]
        loaded = load_strictly(model, weights, name=filename, fresh=allowed, unused=allowed, hint=hint)
        self._has_loaded = True
        left_out = f'; objects of foreign code left out: {len(dropped)}' if dropped else ''
        print_log(f'Loaded {filename}: {loaded}{left_out}', logger='current')
        return checkpoint

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Take up a training again; see mmengine for the arguments.

        Raises:
            InputError: see :meth:`load_checkpoint`.
        """
        self._resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False

    def _check_resumable(self, checkpoint: dict, dropped: list[str], filename: str) -> None:
        parts = (checkpoint.get(key) for key in ('meta', 'message_hub'))
        meta, hub = (part if isinstance(part, dict) else {} for part in parts)
        needed = ['optimizer'] + ['param_schedulers'] * (self.param_schedulers is not None)
        absent = [key for key in needed if key not in checkpoint]
        absent += [
            f'message_hub.{key}'
            for key in ('log_scalars', 'runtime_info', 'resumed_keys')
            if not isinstance(hub.get(key), dict)
        ]
        absent += [f'meta.{key}' for key in ('epoch', 'iter') if not isinstance(meta.get(key), int)]
        absent += [place for place in dropped if place.startswith(('optimizer.', 'param_schedulers.'))]
        if absent:
            raise InputError(
                f'checkpoint {filename}: cannot be resumed, it has no usable {", ".join(absent)}; to '
                'start a new training from its weights give it as load_from, without --resume'
                f'{TRUST if dropped else ""}'
            )
        hub['log_scalars'] = restore_logs(hub['log_scalars'])
        hub['runtime_info'] = trustworthy_paths(hub['runtime_info'])
        kept = hub['log_scalars'].keys() | hub['runtime_info'].keys()
        hub['resumed_keys'] = {key: value for key, value in hub['resumed_keys'].items() if key in kept}
