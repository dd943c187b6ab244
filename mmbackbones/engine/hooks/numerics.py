"""Find NaN and inf before they reach the weights, report them, and stop or skip the iteration."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmbackbones.checkpoints.atomic import write_whole
from mmbackbones.checkpoints.strict import unwrap
from mmbackbones.errors import InputError, NumericalTrouble
from mmbackbones.registry import HOOKS

FOLDER = 'numerical_trouble'
COUNTERS = ('skipped', 'amp_skipped', '_amp_skipped_in_a_row')
NAMES = 20  # parameters that a report lists by name


@HOOKS.register_module()
class NumericsHook(Hook):
    """Stop, or skip the iteration, if the loss or a gradient is not finite.

    The optimizer never sees such gradients. A report, ``numerical_trouble/iter_N.json`` in the work dir, names the
    iteration, the images of the batch, the parts of the loss, the parameters concerned, and the AMP scale. A second
    pass over the batch finds the first module whose output was not finite.

    While FP16's loss scaler searches for a scale, it skips steps whose gradients overflow. These steps are not a fault.
    The log counts them as ``amp_skipped``.

    Args:
        max_skips (int): iterations that a run may skip, with weights and buffers unchanged. One more stops the run.
        max_amp_skips (int): steps in a row that the loss scaler may skip. One more is a fault, because no scale works.

    Raises:
        InputError: ``max_skips`` is below 0 or ``max_amp_skips`` below 1.
    """

    priority = 'NORMAL'  # before the hook that saves

    def __init__(self, max_skips: int = 0, max_amp_skips: int = 25):
        if max_skips < 0 or max_amp_skips < 1:
            raise InputError(
                f'NumericsHook: max_skips={max_skips} must be at least 0 and max_amp_skips={max_amp_skips} at least 1'
            )
        self.max_skips, self.max_amp_skips = max_skips, max_amp_skips
        self.skipped = self.amp_skipped = self._amp_skipped_in_a_row = 0
        self._stepped, self._bad = False, []
        self._batch, self._buffers = None, []

    def state_dict(self) -> dict[str, int]:
        """What a resumed training counts on from."""
        return {name: getattr(self, name) for name in COUNTERS}

    def load_state_dict(self, state: dict[str, int]) -> None:
        for name in COUNTERS:
            setattr(self, name, int(state[name]))

    def before_train(self, runner: Runner) -> None:
        names = {id(parameter): name for name, parameter in unwrap(runner.model).named_parameters()}

        def before_step(optimizer: torch.optim.Optimizer, *_) -> None:
            parameters = [
                parameter
                for group in optimizer.param_groups
                for parameter in group['params']
                if parameter.grad is not None
            ]
            largest = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters], math.inf)
            self._stepped = True
            if torch.isfinite(largest):
                return
            self._bad = [names[id(parameter)] for parameter in parameters if not parameter.grad.isfinite().all()]
            for parameter in parameters:
                parameter.grad = None  # the step then changes nothing

        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(before_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        self._stepped, self._bad, self._batch = False, [], data_batch
        if self.skipped < self.max_skips:  # a forward pass with NaN spoils the statistics of norms
            self._buffers = [buffer.clone() for buffer in unwrap(runner.model).buffers()]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        losses = {name: float(value) for name, value in (outputs or {}).items() if 'loss' in name}
        bad_losses = {name: value for name, value in losses.items() if not math.isfinite(value)}
        amp_hopeless = self._count_amp_skip(runner) and not bad_losses
        trouble = torch.tensor(float(bool(bad_losses or self._bad or amp_hopeless)))
        if get_world_size() > 1:
            all_reduce(trouble, 'max')  # all processes stop or skip together
        if not trouble:
            self._batch = None
            return
        report = self._report(runner, losses, self._bad)
        self._restore(runner)
        file = Path(runner.work_dir, FOLDER, f'iter_{runner.iter + 1}{self._rank_suffix()}.json')
        file.parent.mkdir(parents=True, exist_ok=True)
        stop = amp_hopeless or self.skipped >= self.max_skips
        report['action'] = 'stopped' if stop else f'skipped ({self.skipped + 1} of {self.max_skips})'
        write_whole(file, (json.dumps(report, indent=1) + '\n').encode())
        sentence = self._sentence(report, amp_hopeless, file)
        if stop:
            raise NumericalTrouble(sentence)
        self.skipped += 1
        runner.logger.warning(f'{sentence}; skipped ({self.skipped} of {self.max_skips})')

    def _rank_suffix(self) -> str:
        return f'_rank{get_rank()}' if get_world_size() > 1 else ''

    def _count_amp_skip(self, runner: Runner) -> bool:
        """Count a step that the loss scaler skipped. Returns whether there are too many in a row."""
        wrapper = runner.optim_wrapper
        if not hasattr(wrapper, 'loss_scaler') or not wrapper.should_update():
            return False
        self._amp_skipped_in_a_row = 0 if self._stepped else self._amp_skipped_in_a_row + 1
        self.amp_skipped += not self._stepped
        runner.message_hub.update_scalar('train/amp_skipped', self.amp_skipped)
        return self._amp_skipped_in_a_row > self.max_amp_skips

    def _restore(self, runner: Runner) -> None:
        runner.optim_wrapper.zero_grad()
        for buffer, before in zip(unwrap(runner.model).buffers(), self._buffers):
            buffer.copy_(before)

    def _report(self, runner: Runner, losses: dict[str, float], bad: list[str]) -> dict:
        model = unwrap(runner.model)
        wrong_weights = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
        report = dict(
            iteration=runner.iter + 1,
            epoch=runner.epoch + 1,
            images=_images(self._batch),
            losses={name: value if math.isfinite(value) else str(value) for name, value in losses.items()},
            gradients_not_finite=_named(bad),
            weights_not_finite=_named(wrong_weights),
            learning_rates=sorted({group['lr'] for group in runner.optim_wrapper.param_groups}),
            amp_scale=_amp_scale(runner),
        )
        try:
            return report | _second_pass(runner, model, self._batch)
        # A broken model may fail in any way on the way; the first finding must not be lost by that.
        except Exception as error:
            return report | dict(second_pass=f'failed: {type(error).__name__}: {error}')

    def _sentence(self, report: dict, amp_hopeless: bool, file: Path) -> str:
        what = [f'{name} is {value}' for name, value in report['losses'].items() if isinstance(value, str)]
        if report['gradients_not_finite']['count'] and not what:
            what = [f'the gradient of {report["gradients_not_finite"]["names"][0]} is not finite']
        if amp_hopeless:
            what = [
                f'gradients overflowed in {self._amp_skipped_in_a_row} steps in a row, at every loss scale down to '
                f'{report["amp_scale"]}'
            ]
        first = report.get('first_module')
        where = f', first in the output of {first}' if first else ''
        images = report['images']
        shown = f' (images {", ".join(images[:2])}{", …" if len(images) > 2 else ""})' if images else ''
        return (
            f'numerical trouble at iteration {report["iteration"]}: {"; ".join(what) or "in another process"}'
            f'{where}{shown}; report: {file}'
        )


def _second_pass(runner: Runner, model: nn.Module, batch: dict) -> dict:
    """Run the batch again: forward, checking every module, then backward. Random layers draw new numbers."""
    runner.optim_wrapper.zero_grad()
    found: list[str] = []
    with _watch(model, found), runner.optim_wrapper.optim_context(runner.model):
        data = model.data_preprocessor(batch, True)
        inputs_finite = _finite(data)
        losses = model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
        loss, _ = model.parse_losses(losses)
    loss.backward()
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return dict(
        first_module=found[0] if found else None,
        inputs_finite=inputs_finite,
        second_pass=dict(
            loss=float(loss) if math.isfinite(loss) else str(float(loss)), gradients_not_finite=_named(bad)
        ),
    )


@contextmanager
def _watch(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Collect the modules with outputs that are not finite, in order; inner modules come first."""

    def note(name: str):
        return lambda module, inputs, output: None if found or _finite(output) else found.append(name)

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return True
    return all(_finite(item) for item in value)


def _images(batch: object) -> list[str]:
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    return [str(path) for sample in samples if (path := getattr(sample, 'img_path', None))]


def _named(names: list[str]) -> dict:
    return dict(count=len(names), names=names[:NAMES])


def _amp_scale(runner: Runner) -> float | None:
    scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
    return scaler and scaler.get_scale()
