"""A plan as a table, as sentences and as a record."""

import dataclasses
from collections.abc import Sequence

from rich.table import Table

from mmbackbones.analysis.compare.pilot import Pilot, Plan
from mmbackbones.analysis.compare.power import power, seeds_for
from mmbackbones.analysis.plan.cost import Cost, wall_hours
from mmbackbones.analysis.tables import rich_table
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.records import plain_floats

COLUMNS = (
    'training',
    'task',
    'seeds',
    'processes',
    'iterations',
    'seconds_per_iteration',
    'peak_mb',
    'train_hours',
    'test_hours',
    'device_hours',
    'scaled_from',
    'device',
    'source',
    'notes',
    'measure_with',
)
LISTED = 8  # commands that are printed
TASK_METRIC = {'detection': 'box AP', 'segmentation': 'mIoU'}  # by which a suite's answer is planned


def numbers(cost: Cost) -> dict[str, object]:
    """The :data:`COLUMNS` of a training; None if not measured."""
    job, found = cost.job, cost.measurement
    return dict(
        training=job.name,
        task=job.task,
        seeds=job.seeds,
        processes=job.processes,
        iterations=job.iterations,
        seconds_per_iteration=cost.seconds,
        peak_mb=cost.peak_mb,
        train_hours=cost.train_hours,
        test_hours=cost.test_hours,
        device_hours=cost.device_hours(),
        scaled_from=cost.scaled or None,
        device=found and found.device,
        source=found and found.source,
        notes='; '.join(cost.notes) or None,
        measure_with=cost.command or None,
    )


def unit(costs: Sequence[Cost]) -> str:
    """``'GPU-hours'``, or ``'CPU-hours'`` of a suite without GPUs."""
    return 'GPU-hours' if any(cost.job.processes for cost in costs) else 'CPU-hours'


def table_of(costs: Sequence[Cost]) -> Table:
    """One line per training. A time that was scaled has a ``~``."""
    columns = ['training', 'runs', 'iterations', 's/iteration', 'peak MB', 'h/run', unit(costs)]
    rows = []
    for cost in costs:
        mark = '~' if cost.scaled else ''
        hours = cost.device_hours()
        rows.append(
            [
                cost.job.name,
                cost.job.seeds,
                cost.job.iterations,
                None if cost.seconds is None else f'{mark}{cost.seconds:.3g}',
                None if cost.peak_mb is None else f'{cost.peak_mb:.0f}',
                None if cost.run_hours is None else f'{mark}{cost.run_hours:.3g}',
                None if hours is None else f'{mark}{hours:.3g}',
            ]
        )
    return rich_table(columns, rows)


def sentences(costs: Sequence[Cost], jobs_at_once: int) -> list[str]:
    """The sum, what it lacks, and the commands that measure what is missing."""
    known = [cost for cost in costs if cost.run_hours is not None]
    total = sum(cost.device_hours() or 0.0 for cost in known)
    runs, all_runs = (sum(cost.job.seeds for cost in some) for some in (known, costs))
    said = []
    if known:
        least = '' if len(known) == len(costs) else 'at least '
        said.append(
            f'In all {least}{total:.3g} {unit(costs)} for {runs} of {all_runs} runs; on the clock '
            f'{least}{wall_hours(known, jobs_at_once):.3g} h with {jobs_at_once} at once.'
        )
    else:
        said.append(f'None of the {all_runs} runs has a measured time, so there is no sum.')
    peaks = [cost.peak_mb for cost in costs if cost.peak_mb is not None]
    if peaks:
        said.append(f'The largest measured peak is {max(peaks):.0f} MB per process, of {len(peaks)} trainings.')
    devices = {cost.measurement.device for cost in costs if cost.measurement}
    said += [f'Measured on {device}.' for device in sorted(devices)]
    scaled = [cost for cost in costs if cost.scaled]
    if scaled:
        said.append('~: not measured, but scaled by counted MACs. Time does not follow MACs from one mixer to another.')
        said += [f'~ {cost.job.name}: from {cost.scaled}' for cost in scaled]
    notes: dict[str, int] = {}
    for cost in costs:
        for note in cost.notes:
            notes[note] = notes.get(note, 0) + 1
    said += [f'Note, {count} of {len(costs)} trainings: {note}.' for note, count in notes.items()]
    missing = [cost.command for cost in costs if cost.command]
    if missing:
        said.append(f'{len(missing)} trainings have no measurement. These commands measure them:')
        said += [f'  python {command}' for command in missing[:LISTED]]
        if len(missing) > LISTED:
            said.append(f'  and {len(missing) - LISTED} more: --csv and --json hold all')
    return said


def answerable(costs: Sequence[Cost], pilot: Pilot | None, difference: float, wanted: float) -> list[str]:
    """Whether the suite can answer, and the smallest one that can.

    Args:
        costs: of the suite.
        pilot: see :func:`mmbackbones.analysis.compare.pilot.read_pilot`.
        difference: to be seen, in points.
        wanted: power.

    Raises:
        InputError: the pilot is of a task that the suite does not have.
    """
    seeds = costs[0].job.seeds
    said = []
    if seeds < SEEDS_FOR_METHODS:
        said.append(
            f'Warning: {seeds} seed(s) per arm. compare.py then concludes about checkpoints; about methods it needs '
            f'{SEEDS_FOR_METHODS}.'
        )
    if pilot is None:
        return [*said, f'Whether {seeds} seed(s) show a difference of {difference:g} points, a pilot tells: --power.']
    task = pilot.arms[0].runs[0].record['task']
    own = [cost for cost in costs if cost.job.task == task]
    if not own:
        raise InputError(f'--power: the pilot is of {task}, and the suite trains nothing of it')
    for plan in pilot.plans:
        if plan.metric == TASK_METRIC[task]:
            said += _answer(plan, own, seeds, difference, wanted)
    if len(own) > 2:
        said.append(
            f'The power is that of one comparison. Holm corrects for {len(own) - 1} against one reference, which takes '
            'more.'
        )
    others = {cost.job.task for cost in costs} - {task}
    said += [f'The pilot says nothing of {other}.' for other in sorted(others)]
    return said


def _answer(plan: Plan, own: Sequence[Cost], seeds: int, difference: float, wanted: float) -> list[str]:
    found, who = plan.components, f'{plan.metric}, {plan.arm} - {plan.reference}, {difference:g} points'
    if found.seeds is None:
        return [
            f'Warning: {who}: the pilot has one seed per arm, so the number of seeds that can answer is unknown; train '
            'a second seed of each of its arms.'
        ]
    reached = f'a power of {power(found, difference, plan.images, seeds):.0%}' if seeds >= 2 else 'no test of methods'
    needed = seeds_for(found, difference, plan.images, wanted)
    if needed is None:
        return [
            f'Warning: {who}: this suite cannot answer. On {plan.images:,} images no number of seeds reaches a power '
            f'of {wanted:.0%}; {seeds} give {reached}. It takes more test images or a larger difference.'
        ]
    needed = max(needed, SEEDS_FOR_METHODS)
    hours = [cost.device_hours(needed) for cost in own]
    known = [value for value in hours if value is not None]
    price = 'no measured time' if not known else f'{sum(known):.3g} {unit(own)}'
    if known and len(known) < len(own):
        price = f'at least {price}, of {len(known)} of {len(own)} trainings'
    said = [f'{who}: the smallest suite with a power of {wanted:.0%} has {needed} seeds per arm ({price}).']
    if seeds < needed:
        said.append(f'Warning: {who}: this suite cannot answer: {seeds} seed(s) give {reached}.')
    else:
        said.append(f'{who}: this suite has {seeds} seeds, {reached}.')
    return said


def to_record(suite: str, costs: Sequence[Cost], said: Sequence[str], jobs_at_once: int) -> dict:
    """The plan as plain data."""
    known = [cost for cost in costs if cost.run_hours is not None]
    record = dict(
        kind='plan',
        suite=suite,
        trainings=[numbers(cost) for cost in costs],
        measurements=[dataclasses.asdict(cost.measurement) for cost in costs if cost.measurement],
        unit=unit(costs),
        device_hours=sum(cost.device_hours() or 0.0 for cost in known) if known else None,
        wall_hours=wall_hours(known, jobs_at_once) if known else None,
        complete=len(known) == len(costs),
        jobs=jobs_at_once,
        sentences=list(said),
        **environment(),
    )
    return plain_floats(record)
