"""Hours and memory of planned trainings from measurements. What nobody measured stays empty and names a command."""

import functools
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbackbones.analysis.plan.measured import RANKS, Measurement, identity_of
from mmbackbones.analysis.tables import read_csv
from mmbackbones.engine.config import load_config, run_name
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import settings_of
from mmbackbones.paths import CONFIGS

# Task -> the files that it equals with their backbones (configs/tasks/README.md). Other tasks have no such files.
OWN_FILES = {
    'mask-rcnn_1x_coco.py': '*/mask-rcnn_{}_*.py',
    'upernet_160k_ade20k-512x512.py': '*/{}_upernet_*.py',
}


@dataclass
class Job:
    """One training of a suite, for all its seeds.

    Attributes:
        config, backbone, arm (str, str | None, str | None): as the suite names them.
        options (list[str]): ``KEY=VALUE`` overrides of the suite.
        overrides (dict): the same, read, with the arm.
        task (str): ``'detection'``, ``'segmentation'`` or ``'classification'``.
        seeds (int): number of them.
        processes (int): of a run; 0: one, on the CPU.
        iterations (int | None): of a run; None if the number of images is not known.
        batch (int): images per process and iteration.
        size (int | None): side of the training's images if all are squares of one size.
        precision (str): of the training on its device.
        recipe (str | None): of the config.
        multi_scale (bool): whether the suite tests at several scales as well.
        counts_epochs (bool): whether its schedule counts epochs, not iterations.
        validates (bool): whether it validates before its end.
    """

    config: str
    backbone: str | None
    arm: str | None
    options: list[str]
    overrides: dict
    task: str
    seeds: int
    processes: int
    iterations: int | None
    batch: int
    size: int | None
    precision: str
    recipe: str | None
    multi_scale: bool
    counts_epochs: bool = False
    validates: bool = False

    @property
    def name(self) -> str:
        return run_name(self.config, self.backbone, self.arm)

    @functools.cached_property
    def identity(self) -> str:
        """See :func:`identity_of`."""
        return identity_of(settings_of(load_config(self.config, self.overrides, self.backbone)))

    @functools.cached_property
    def own_file(self) -> Path | None:
        """The config file that a task with this backbone equals (configs/tasks/README.md), if there is one."""
        config = Path(self.config)
        if self.backbone is None or CONFIGS is None or config.parent.name != 'tasks' or config.name not in OWN_FILES:
            return None
        found = list(CONFIGS.glob(OWN_FILES[config.name].format(self.backbone.replace('_', '-'))))
        return found[0] if len(found) == 1 else None

    @property
    def names(self) -> set[str]:
        return {self.name, *([self.own_file.stem] if self.own_file else [])}

    def command(self) -> str:
        """The command that measures it."""
        own = f'configs/{self.own_file.relative_to(CONFIGS)}' if self.own_file and CONFIGS else self.config
        if (self.backbone is None or self.own_file) and self.arm is None and not self.options:
            return f'tools/analysis/end_to_end.py {own} --coco DIR --ade20k DIR --csv FILE'
        given = [f'--backbone {self.backbone}'] if self.backbone else []
        last = 'max_epochs=1' if self.counts_epochs else 'max_iters=200'
        arm = [f'model.backbone.mixers={self.arm}'] if self.arm else []
        options = ' '.join([*self.options, *arm, f'train_cfg.{last}'])
        place = f'--work-dir work_dirs/measure/{self.name}'
        return ' '.join(['tools/train.py', self.config, *given, place, '--cfg-options', options])


@dataclass
class Cost:
    """What one training costs. None: not measured.

    Attributes:
        job (Job): the training.
        seconds (float | None): per iteration.
        peak_mb (float | None): memory of a process on the device.
        train_hours, test_hours (float | None): of one run.
        measurement (Measurement | None): where the numbers come from.
        scaled (str): what the time was scaled from, by counted MACs; empty if it was measured.
        notes (list[str]): what the numbers lack.
        command (str): that measures what is missing; empty if nothing is.
    """

    job: Job
    seconds: float | None = None
    peak_mb: float | None = None
    train_hours: float | None = None
    test_hours: float | None = None
    measurement: Measurement | None = None
    scaled: str = ''
    notes: list[str] = field(default_factory=list)
    command: str = ''

    @property
    def run_hours(self) -> float | None:
        """Of one run on the clock: training and, where it was measured, the test."""
        return None if self.train_hours is None else self.train_hours + (self.test_hours or 0)

    def device_hours(self, seeds: int | None = None) -> float | None:
        """Of all seeds and processes: GPU-hours, or CPU-hours of processes."""
        if self.run_hours is None:
            return None
        return self.run_hours * max(self.job.processes, 1) * (self.job.seeds if seeds is None else seeds)


def costs_of(
    jobs: Sequence[Job],
    measurements: Sequence[Measurement],
    device: str | None = None,
    macs: Callable[[Job], float | None] | None = None,
) -> list[Cost]:
    """Cost of each training.

    Args:
        jobs: planned trainings.
        measurements: see :func:`mmbackbones.analysis.plan.measured.read_measurements`.
        device: part of the name of the device to plan for.
        macs: counted MACs of a training. If given, what was not measured is scaled by them, and says so.

    Raises:
        InputError: the measurements are of several devices, or none is of the given one.
    """
    if device is not None:
        known = sorted({each.device for each in measurements})
        measurements = [each for each in measurements if device.lower() in each.device.lower()]
        if not measurements:
            raise InputError(f'--device {device}: measured is {", ".join(known) or "nothing"}')
    costs = [_measured(job, measurements) for job in jobs]
    devices = sorted({cost.measurement.device for cost in costs if cost.measurement})
    if len(devices) > 1:
        raise InputError(f'measurements of {len(devices)} devices ({"; ".join(devices)}): choose one with --device')
    if macs is not None:
        donors = [cost for cost in costs if cost.seconds is not None]
        for cost in costs:
            if cost.seconds is None:
                _scale(cost, donors, macs)
    for cost in costs:
        _fill(cost)
    return costs


def _measured(job: Job, measurements: Sequence[Measurement]) -> Cost:
    found = [each for each in measurements if _is_of(each, job)]
    if not found:
        return Cost(job)
    # The kind closest to the plan, then the same number of processes, then the newest.
    best = min(found, key=lambda each: (RANKS.index(each.kind), each.processes != max(job.processes, 1)))
    same = [each for each in found if (each.kind, each.processes) == (best.kind, best.processes)]
    best = max(same, key=lambda each: each.date)
    return Cost(job, best.seconds, best.peak_mb, measurement=best)


def _is_of(measurement: Measurement, job: Job) -> bool:
    if measurement.on_cpu != (job.processes == 0):
        return False
    if (measurement.batch, measurement.precision) != (job.batch, job.precision):
        return False
    if measurement.identity is not None:
        return measurement.identity == job.identity
    # A CSV has the name of the config file alone: options of the suite are not in it, nor which of two namesakes it is.
    if job.options or not _is_unique(measurement.name):
        return False
    return measurement.name in job.names and measurement.size in (None, job.size)


@functools.cache
def _is_unique(name: str) -> bool:
    return CONFIGS is None or len(list(CONFIGS.rglob(f'{name}.py'))) <= 1


def _scale(cost: Cost, donors: Sequence[Cost], macs: Callable[[Job], float | None]) -> None:
    job, own = cost.job, macs(cost.job)
    if own is None:
        cost.notes.append('its MACs are not counted, so nothing is scaled')
        return
    alike = [
        (abs(math.log(own / other)), other, donor)
        for donor in donors
        if (donor.job.task, donor.job.batch, donor.job.size) == (job.task, job.batch, job.size)
        and (other := macs(donor.job))
    ]
    if alike:
        _, other, donor = min(alike, key=lambda each: each[:2])
        assert donor.seconds is not None
        cost.seconds = donor.seconds * own / other
        cost.scaled = f'{donor.job.name}, times {own / other:.2f} by MACs'


def _fill(cost: Cost) -> None:
    job, best = cost.job, cost.measurement
    if best is None:
        cost.command = job.command()
    elif best.processes != max(job.processes, 1):
        cost.notes.append(f'measured with {best.processes} process(es): what more of them cost is not in it')
    if best is not None:
        lacks = ['validation'] * (job.validates and best.kind != 'training')
        lacks += ['loading'] * (best.kind == 'step') + ['the test'] * (best.test_seconds is None)
        if lacks:
            cost.notes.append(f'from a {best.kind}, without {", ".join(lacks)}')
    if job.iterations is None:
        cost.notes.append('the number of training images is not known: --train-images')
    elif cost.seconds is not None:
        cost.train_hours = cost.seconds * job.iterations / 3600
    if best is not None and best.test_seconds is not None:
        cost.test_hours = best.test_seconds * best.processes / max(job.processes, 1) / 3600
    if job.multi_scale and cost.train_hours is not None:
        cost.notes.append('without the test at several scales')


def wall_hours(costs: Sequence[Cost], jobs_at_once: int) -> float:
    """Hours on the clock of all runs with a known time, in the order of the suite, some at once."""
    ends = [0.0] * jobs_at_once
    for cost in costs:
        for _ in range(cost.job.seeds if cost.run_hours is not None else 0):
            heapq.heapreplace(ends, ends[0] + (cost.run_hours or 0.0))
    return max(ends)


def counted_macs(path: str | Path) -> Callable[[Job], float | None]:
    """MACs of a training in 1e9, as ``tools/analysis/complexity.py --all --csv`` counted them.

    Raises:
        InputError: no such file, or a CSV of something else.
    """
    rows = read_csv(path)
    if not rows or not {'config', 'recipe', 'macs_G'} <= set(rows[0]):
        raise InputError(f'{path}: no CSV of tools/analysis/complexity.py')
    by_name = {(row['config'], row['recipe']): float(row['macs_G']) for row in rows if row['macs_G']}

    def macs(job: Job) -> float | None:
        found = [by_name[name, str(job.recipe)] for name in job.names if (name, str(job.recipe)) in by_name]
        return found[0] if found and not job.options else None

    return macs
