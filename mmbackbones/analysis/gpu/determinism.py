"""The phase ``determinism``: the same inputs give the same bits twice."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmbackbones.analysis.gpu.choices import Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, Finding, guarded
from mmbackbones.analysis.gpu.scans import OPTIONS, inputs_of, outputs_of
from mmbackbones.analysis.speed import mixers
from mmbackbones.analysis.speed.mixer_cases import CASES
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend

FAST = ('cpu', 'triton', 'mamba_ssm')  # those that a user runs
BACKENDS_OF_OTHERS = ('mamba_ssm',)  # whose sums may be in any order; told, and no failure of ours
MIXERS = ('vim-t-224', 'vmamba-t-stage2')
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def findings(settings: Settings) -> Iterator[Finding]:
    """A row for each backend and dtype, and for each mixer and dtype, with the tensors whose bits differ."""
    for backend in FAST:
        for dtype in DTYPES:
            name = f'scan by {backend}, {str(dtype).removeprefix("torch.")}'
            yield guarded(name, lambda name=name, b=backend, d=dtype: scan_twice(name, b, settings.device, d))
    for case in MIXERS:
        for dtype in DTYPES:
            name = f'mixer {case}, {str(dtype).removeprefix("torch.")}'
            yield guarded(name, lambda name=name, c=case, d=dtype: mixer_twice(name, c, settings.device, d))


def scan_twice(check: str, backend: str, device: str, dtype: torch.dtype) -> Finding:
    """Whether every option gives the same bits twice.

    Raises:
        InputError: the backend cannot be used on this device.
    """
    selective_scan_backend(device, backend)
    compared, differing = 0, []
    for name, options in OPTIONS.items():
        inputs = inputs_of(options, dtype)
        try:
            first, second = (outputs_of(inputs, options, backend, device) for _ in range(2))
        except InputError:
            continue  # not offered by this backend, as the parity tells
        compared += len(first)
        differing += [f'{key} of {name!r}' for key in differences(first, second)]
    return verdict(check, compared, differing, backend in BACKENDS_OF_OTHERS)


def mixer_twice(check: str, case: str, device: str, dtype: torch.dtype) -> Finding:
    """Whether a mixer's output and gradients have the same bits twice, by its default implementation."""
    layer, x = mixers.layer_of(CASES[case]).to(device), mixers.tokens_of(CASES[case]).to(device)
    names = ('out', 'grad_x', *(f'grad_{name}' for name, _ in layer.named_parameters()))
    first, second = (
        dict(zip(names, mixers.call('default', CASES[case], layer, x, dtype, backward=True))) for _ in range(2)
    )
    return verdict(check, len(first), differences(first, second), False)


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the tensors whose bits differ; two equal NaNs do not."""
    return [name for name, x in first.items() if not torch.equal(_bits(x), _bits(second[name]))]


def verdict(check: str, compared: int, differing: list[str], foreign: bool) -> Finding:
    """The finding: differing bits fail, unless the operator is another project's."""
    note = f'differ: {", ".join(differing)}' if differing else ''
    figures = dict(compared=compared, different=len(differing))
    return Finding(check, FAILED if differing and not foreign else OK, figures, note)


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
