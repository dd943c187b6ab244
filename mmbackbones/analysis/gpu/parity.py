"""The phase ``parity``: every backend and dtype against the specification in float64, then whole mixers."""

from collections.abc import Iterator

import torch

from mmbackbones.analysis.gpu.choices import Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, Finding, guarded
from mmbackbones.analysis.gpu.scans import OPTIONS, inputs_of, outputs_of
from mmbackbones.analysis.speed import mixers, scan
from mmbackbones.analysis.speed.mixer_cases import CASES, METHODS
from mmbackbones.choices import BACKENDS
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend

MIXERS = ('vim-t-224', 'vmamba-t-stage2')


def findings(settings: Settings) -> Iterator[Finding]:
    """A row for each backend and dtype, and for each mixer, method and dtype, with the largest error."""
    for backend in BACKENDS:
        for dtype in scan.PARITY:
            name = f'scan by {backend}, {_short(dtype)}'
            yield guarded(name, lambda name=name, b=backend, d=dtype: scan_parity(name, b, settings.device, d))
    for case in MIXERS:
        for method in METHODS:
            for dtype in mixers.PARITY:
                name = f'{case} by {method}, {_short(dtype)}'
                yield guarded(
                    name, lambda name=name, c=case, m=method, d=dtype: mixer_parity(name, c, m, settings.device, d)
                )


def scan_parity(check: str, backend: str, device: str, dtype: torch.dtype) -> Finding:
    """Largest error over all options, outputs and gradients, each relative to its largest magnitude.

    Raises:
        InputError: the backend cannot be used on this device.
    """
    selective_scan_backend(device, backend)
    errors, refused = {}, []
    for name, options in OPTIONS.items():
        inputs = inputs_of(options, dtype)
        expected = outputs_of({key: x.double() for key, x in inputs.items()}, options, 'chunk', 'cpu')
        try:
            actual = outputs_of(inputs, options, backend, device)
        except InputError as error:
            refused.append(f'{name}: {error}')
            continue
        for key, x in expected.items():
            errors[name, key] = _error(actual[key].cpu().double(), x)
    return judged(check, errors, scan.PARITY[dtype], refused)


def judged(check: str, errors: dict[tuple[str, str], float], tolerance: float, refused: list[str]) -> Finding:
    """The finding of a comparison: failed if an error is larger than the tolerance or NaN.

    Args:
        check: its name.
        errors: by option and tensor.
        tolerance: largest error that passes.
        refused: options that the backend says it does not have.
    """
    worst = max(errors, key=lambda key: (errors[key] != errors[key], errors[key]))
    wrong = sorted({option for (option, _), error in errors.items() if not error <= tolerance})
    figures = dict(options=len({option for option, _ in errors}), error=errors[worst], tolerance=tolerance)
    notes = [f'worst: {worst[1]} of {worst[0]!r}']
    notes += [f'wrong: {", ".join(wrong)}'] if wrong else []
    notes += [f'not offered: {"; ".join(refused)}'] if refused else []
    return Finding(check, FAILED if wrong else OK, figures, '; '.join(notes))


def mixer_parity(check: str, case: str, method: str, device: str, dtype: torch.dtype) -> Finding:
    """The mixer's output and gradients against the composition in float64.

    Raises:
        InputError: the method cannot run on this device.
    """
    reason = mixers.unavailable(method, device)
    if reason:
        raise InputError(reason)
    error, tolerance = mixers.parity(method, CASES[case], device, dtype), mixers.PARITY[dtype]
    return Finding(check, OK if error <= tolerance else FAILED, dict(error=error, tolerance=tolerance))


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')
