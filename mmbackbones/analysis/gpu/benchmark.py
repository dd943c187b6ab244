"""The phase ``benchmark``: short times of scans and mixers, ours beside the official operators."""

from collections.abc import Callable, Iterable, Iterator

import torch

from mmbackbones.analysis.gpu.choices import Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, SKIPPED, Finding, guarded
from mmbackbones.analysis.speed import mixers, scan
from mmbackbones.analysis.speed.methods import MethodTiming
from mmbackbones.analysis.speed.worker import is_out_of_memory
from mmbackbones.analysis.timing import median
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend

BATCHES = (1, 4, 16, 64)
SCANS = ('n16-1024', 'vmamba-t-stage3')  # Vim-T's scan at 512 px, and one with four groups of one state
MIXERS = {'vim-t-512': (1, 16), 'vmamba-t-stage3': (1, 16)}
ROUNDS, SECONDS_A_CALL, MOST_GB = 3, 2.0, 16.0


def findings(settings: Settings) -> Iterator[Finding]:
    """A row for each case, batch, pass and method. On a CPU only the smallest batch, and float32."""
    cuda = settings.device == 'cuda'
    dtype = torch.bfloat16 if cuda else torch.float32
    for case in SCANS:
        for batch in BATCHES if cuda else BATCHES[:1]:
            yield from _timed(f'{case}, batch {batch}', lambda c=case, b=batch: _scans(c, b, settings.device, dtype))
    for case, batches in MIXERS.items():
        for batch in batches if cuda else batches[:1]:
            yield from _timed(
                f'mixer {case}, batch {batch}', lambda c=case, b=batch: _mixers(c, b, settings.device, dtype)
            )


def _scans(case: str, batch: int, device: str, dtype: torch.dtype) -> Iterable[MethodTiming]:
    methods = [selective_scan_backend(device).name, *(['mamba_ssm CUDA'] if device == 'cuda' else [])]
    return scan.benchmark(case, methods, device, dtype, ROUNDS, SECONDS_A_CALL, MOST_GB, batch)


def _mixers(case: str, batch: int, device: str, dtype: torch.dtype) -> Iterable[MethodTiming]:
    methods = ['triton', 'composed', 'copies', 'mamba_ssm'] if device == 'cuda' else ['composed', 'copies']
    return mixers.benchmark(case, methods, device, dtype, ROUNDS, batch)


def _timed(name: str, measure: Callable[[], Iterable[MethodTiming]]) -> Iterator[Finding]:
    """A row for every timing, or one that says why there is none."""
    rows: list[Finding] = []

    def run() -> dict:
        try:
            rows.extend(row_of(name, timing) for timing in measure())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError('out of memory on this device') from error
        return {}

    whole = guarded(name, run)
    yield from rows
    if whole.status != OK:
        yield whole


def row_of(name: str, timing: MethodTiming) -> Finding:
    """A timing as a finding; a failed parity check is a failure, a method that is not there is skipped."""
    figures = dict(
        method=timing.method,
        direction=timing.direction,
        replay_ms=_milliseconds(timing.replay),
        replay_ratio=timing.replay_ratio,
        events_ms=_milliseconds(timing.seconds),
        ratio=timing.ratio,
        wall_ms=_milliseconds(timing.wall),
        peak_mb=timing.peak and timing.peak / 1e6,
    )
    if timing.note.startswith('PARITY'):
        return Finding(name, FAILED, figures, timing.note)
    return Finding(name, OK if timing.seconds else SKIPPED, figures, timing.note)


def _milliseconds(seconds: list[float]) -> float | None:
    return 1e3 * median(seconds) if seconds else None
