"""Measure time and memory against resolution: backbones or whole models, inference or training, side by side.

Every arm (a config, its scan backend, its kind of attention) has a separate process at every size, so that arms do not
affect each other's memory. The processes of a size take turns, so that they have the same conditions. Ratios are within
such a group only. An arm that runs out of memory gets a row that says so.
"""

import inspect
import math
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from mmengine.registry import MODELS, init_default_scope
from scipy.stats import linregress

from mmbackbones.analysis.complexity.count import build_without_values, count_module
from mmbackbones.analysis.speed.choices import PARTS, PRECISIONS, STEPS
from mmbackbones.analysis.speed.worker import (
    OUT_OF_MEMORY,
    WARM_UP,
    NetworkCase,
    NetworkTiming,
    backbone_config,
    serve,
)
from mmbackbones.analysis.timing import in_turns
from mmbackbones.choices import ATTENTION, OLD_ATTENTION
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.ops.selective_scan import selective_scan_backend


class Growth(NamedTuple):
    """Cost ~ tokens ** exponent, by least squares of the logarithms; ``error`` is the exponent's standard error."""

    exponent: float
    error: float


def arms(
    config: str, case: NetworkCase, backends: Sequence[str] = (), attention: Sequence[str] = ()
) -> list[NetworkCase]:
    """A case for each scan backend and kind of attention that a config's backbone supports.

    Args:
        config: path of a config.
        case: all other settings.
        backends: backends of the selective scan; by default the one chosen for the device.
        attention: kinds of attention; by default that of the config.

    Raises:
        InputError: unusable config or backend.
    """
    cfg = load_config(config)
    dense_task_of(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    case = replace(case, config=config)
    chosen = [selective_scan_backend(case.device, name).name for name in backends or ['auto']]
    backbone = build_without_values(backbone_config(case, cfg))
    if not count_module(backbone, torch.empty(1, 3, WARM_UP, WARM_UP)).scans:
        chosen = [None]
    kinds = _attention_kinds(case, cfg, attention)
    return [replace(case, backend=backend, attention=kind) for backend in chosen for kind in kinds]


def _attention_kinds(case: NetworkCase, cfg, asked: Sequence[str]) -> list[str | None]:
    """The given kinds, or that of the config, if the backbone supports both kinds of attention; else only None."""
    kind = MODELS.get(cfg.model.backbone.type)
    if kind is None or 'attention' not in inspect.signature(kind.__init__).parameters:
        return [None]
    try:
        build_without_values(backbone_config(replace(case, attention='eager'), cfg))
    except InputError:  # a backbone that says that it has none
        return [None]
    own = cfg.model.backbone.get('attention', ATTENTION[0])
    return list(asked) or [OLD_ATTENTION.get(own, own)]


def check(case: NetworkCase, sizes: Sequence[int], rounds: int) -> None:
    """Refuse a case that cannot be measured.

    Raises:
        InputError: names the option.
    """
    if not sizes or min(sizes) < WARM_UP:
        raise InputError(f'--sizes {" ".join(map(str, sizes))}: expected sides of {WARM_UP} px and more')
    if rounds < 0:
        raise InputError(f'--rounds {rounds}: expected 0 and more; 0 measures memory alone')
    if min(case.threads, case.batch) < 1:
        raise InputError(f'--threads {case.threads} --batch {case.batch}: expected 1 and more')
    if case.memory_gb is not None and not case.memory_gb > 0:
        raise InputError(f'--memory-gb {case.memory_gb}: expected more than 0')
    if case.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda: no CUDA device here')
    if case.device == 'cpu' and case.precision == 'fp16':
        raise InputError('--precision fp16: on a CPU expected fp32 or bf16')
    for name, value, known in (
        ('part', case.part, PARTS),
        ('step', case.step, STEPS),
        ('precision', case.precision, PRECISIONS),
    ):
        if value not in known:
            raise InputError(f'{name} {value!r}: expected one of {", ".join(known)}')


def measure(cases: Sequence[NetworkCase], sizes: Sequence[int], rounds: int = 3) -> Iterator[NetworkTiming]:
    """Measure arms at each size. The arms take turns.

    Args:
        cases: arms, see :func:`arms`; the first one is the base of ratios. Their size is replaced.
        sizes: sides in pixels.
        rounds: timed steps (on CUDA, series of steps) per arm and size, after an untimed one that measures memory. 0:
            memory alone, by one step.

    Yields:
        NetworkTiming: all arms of a size, then the next size.

    Raises:
        InputError: see :func:`check`; no cases; a part that cannot run in this way.
    """
    if not cases:
        raise InputError('nothing to measure: no configs')
    for case in cases:
        check(case, sizes, rounds)
        task = dense_task_of(load_config(case.config)) if case.part == 'model' else None
        if task == 'segmentation' and case.step == 'training' and case.batch < 2:
            raise InputError('--batch 1: expected 2 and more to train a segmentor, whose norms need several images')
        if task == 'detection' and case.device == 'cpu' and case.precision != 'fp32':
            raise InputError(
                f"--precision {case.precision}: mmcv's CPU operators, which a detector needs, take fp32 alone"
            )
    for size in sizes:
        workers = [_Worker(replace(case, size=size)) for case in cases]
        try:
            rows = [worker.row(timed=rounds > 0) for worker in workers]
            for worker, row in in_turns(list(zip(workers, rows)), rounds):
                if not row.note:
                    worker.time(row)
        finally:
            for worker in workers:
                worker.end()
        for row in rows:
            row.ratio = row.median / rows[0].median if row.seconds and rows[0].seconds else None
        yield from rows


class _Worker:
    """A process that measures one case and waits for its turn before every step."""

    def __init__(self, case: NetworkCase):
        self.case = case
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, case), daemon=True)
        self.process.start()
        theirs.close()

    def row(self, timed: bool) -> NetworkTiming:
        """The row with its memory, and with the share of the scan if times follow."""
        answer = self._answer(timed)
        return answer if isinstance(answer, NetworkTiming) else NetworkTiming(self.case, note=str(answer))

    def time(self, row: NetworkTiming) -> None:
        """Add a time to the row."""
        answer = self._answer()
        if isinstance(answer, float):
            row.seconds.append(answer)
        else:
            row.note, row.seconds = answer.note, []

    def _answer(self, message: bool | None = None) -> NetworkTiming | float:
        try:
            self.pipe.send(message)
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:  # as Linux does when a machine has no memory left
                return NetworkTiming(self.case, note=f'{OUT_OF_MEMORY} (killed)')
            raise RuntimeError(
                f'the process that measured {self.case} ended with status {self.process.exitcode}'
            ) from None
        if isinstance(answer, InputError):
            raise answer
        return answer

    def end(self) -> None:
        self.pipe.close()
        self.process.join()


def growth(rows: Sequence[NetworkTiming], cost: str = 'median') -> Growth | None:
    """Growth of time (``'median'``) or memory (``'peak'``) of one arm with its tokens; None below three sizes."""
    points = [(row.tokens, getattr(row, cost)) for row in rows if row.tokens and getattr(row, cost)]
    if len({tokens for tokens, _ in points}) < 3:
        return None
    fit = linregress([math.log(tokens) for tokens, _ in points], [math.log(value) for _, value in points])
    return Growth(float(fit.slope), float(fit.stderr))


def by_arm(rows: Sequence[NetworkTiming]) -> dict[NetworkCase, list[NetworkTiming]]:
    """Rows of each arm over its sizes; keys have size 0."""
    groups = {}
    for row in rows:
        groups.setdefault(replace(row.case, size=0), []).append(row)
    return groups
