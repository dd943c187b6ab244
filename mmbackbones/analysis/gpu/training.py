"""The phase ``training``: a detector learns from random images in half precision, as the recipe trains it."""

from collections.abc import Iterator

import torch

from mmbackbones.analysis.gpu.choices import Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, Finding, guarded
from mmbackbones.analysis.speed.worker import NetworkCase, NetworkStep, scan_share
from mmbackbones.analysis.timing import peak_memory, times_of
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of
from mmbackbones.paths import find_config

MOST_STEPS = 12  # until the loss scaler has found its scale: it halves 65,536 at each step that overflows
TIMED_STEPS = 3


def require_detector(config: str) -> None:
    """Refuse another config before anything is measured.

    Raises:
        InputError: no such file, no readable config, or no detector.
    """
    if task_of(load_config(find_config(config))) != 'detection':
        raise InputError(f'--config {config}: trains no detector')


def findings(settings: Settings) -> Iterator[Finding]:
    """Steps of a detector: the first that the loss scaler lets pass, its time and memory, and the scan's share."""
    precision = 'fp16' if settings.device == 'cuda' else 'fp32'
    config = find_config(settings.config)
    require_detector(settings.config)
    case = NetworkCase(
        str(config),
        settings.size,
        part='model',
        step='training',
        batch=settings.batch,
        precision=precision,
        device=settings.device,
    )
    step = NetworkStep(case)
    images, samples = step.images(case.size), step.samples(case.size)
    name = f'{config.stem}, {case.batch} images of {case.size} px, {precision}'
    yield guarded(name, lambda: first_step(name, step, images, samples))
    yield guarded('a step in time and memory', lambda: _cost(step, images, samples, settings.device))
    yield guarded("the scan's share of a step", lambda: _share(step, images, samples, settings.device))


def first_step(check: str, step: NetworkStep, images: torch.Tensor, samples: list) -> Finding:
    """Train until a step is not skipped. Failed if none passes, or a weight is not finite or none has changed."""
    before = {name: x.detach().clone() for name, x in step.model.named_parameters() if x.requires_grad}
    skipped, losses = 0, []
    while True:
        scale = step.scaler.get_scale()
        losses.append(float(step(images, samples)))
        if step.scaler.get_scale() >= scale:
            break
        skipped += 1
        if skipped == MOST_STEPS:
            return Finding(check, FAILED, dict(loss=losses[-1]), f'{skipped} steps in a row have no finite gradients')
    after = dict(step.model.named_parameters())
    broken = [name for name in before if not after[name].isfinite().all()]
    changed = sum(not torch.equal(x, after[name]) for name, x in before.items())
    figures = dict(loss=losses[-1], skipped=skipped, weights=len(before), changed=changed)
    if broken or not changed or not torch.isfinite(torch.tensor(losses[-1])):
        note = f'not finite: {", ".join(broken[:5])}' if broken else 'no weight has changed, or the loss is not finite'
        return Finding(check, FAILED, figures, note)
    return Finding(check, OK, figures)


def _cost(step: NetworkStep, images: torch.Tensor, samples: list, device: str) -> dict[str, float | None]:
    peak = peak_memory(lambda: step(images, samples), device)
    seconds, wall = times_of(lambda: step(images, samples), TIMED_STEPS, device)
    return dict(step_ms=1e3 * seconds, wall_ms=1e3 * wall, peak_mb=peak and peak / 1e6)


def _share(step: NetworkStep, images: torch.Tensor, samples: list, device: str) -> dict[str, float]:
    return dict(scan_share=scan_share(lambda: step(images, samples), device))
