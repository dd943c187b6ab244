"""Train and test a small detector and two small segmentors, MambaOut and a Mamba, on generated shapes, and check them.

Runs the same commands that a user runs, each in its own process, two at a time: ``train``, then ``test``,
at one scale and at several. The two segmentors differ in their backbone alone, so the report compares them.
Everything lands in a new folder; the exit status says whether the networks learned.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.report.write import write_report
from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.engine.process import command
from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import precision_by_name
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.launch.choices import TASKS
from mmbackbones.launch.command_line import quickstart_parser

DATA = Path('data', 'shapes')  # where the configs look for it
FULL_SIZE = 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'
# Both segmentors take so many steps: fewer than the config says, which is enough and leaves time for the second one.
SEGMENTOR_STEPS = 250
# What a network that learned exceeds by far and an untrained one never reaches.
FLOORS = {'box AP': 0.70, 'mask AP': 0.70, 'mIoU': 0.75, 'mIoU, VMamba': 0.75}
CLASS_IOU_FLOOR = 0.40
# Scores of the same network, seed and data on the machines that we know (AMD EPYC, Intel Xeon): rounding differs
# between processors, and training amplifies it.
KNOWN = {'box AP': '0.811 to 0.826', 'mask AP': '0.891 to 0.905'}
PROGRESS = re.compile(r'(Iter\((?:train|test)\)) \[ *(\d+)/(\d+)\](?:.*?eta: ([\d:]+))?(?:.*? loss: ([\d.]+))?')


@dataclass(frozen=True)
class Training:
    """One of the trainings.

    Attributes:
        name (str): name of its folder.
        task (str): one of ``TASKS``.
        options, settings (tuple[str, ...]): of ``train`` and ``test``: options, and keys of ``--cfg-options``.
        test_options (tuple[str, ...]): of ``test`` alone; ``{folder}`` is the work dir. Without any there is no second
            test: the training has tested its last checkpoint.
    """

    name: str
    task: str
    options: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    test_options: tuple[str, ...] = ()

    def arguments(self, iterations: int | None) -> list[str]:
        """Options and ``--cfg-options`` of both commands; ``iterations`` ends the training early."""
        settings = [*self.settings, *([f'train_cfg.max_iters={iterations}'] if iterations else [])]
        return [*self.options, *(['--cfg-options', *settings] if settings else [])]


SHORTER = (f'train_cfg.max_iters={SEGMENTOR_STEPS}', f'param_scheduler.1.end={SEGMENTOR_STEPS}')
TRAININGS = (
    Training('detection', 'detection', test_options=('--out', '{folder}/test')),
    Training(
        'segmentation', 'segmentation', settings=SHORTER, test_options=('--tta', '--out', '{folder}/test-multi-scale')
    ),
    Training('segmentation-vmamba', 'segmentation', ('--backbone', 'vmamba_mini'), SHORTER),
)


def intersection_over_union(folder: Path, classes: Sequence[str]) -> dict[str, float]:
    """IoU of every class and, under ``'all'``, their mean, from the areas that a test wrote."""
    with np.load(folder / 'areas.npz') as areas:
        union = areas['union'].sum(0)
        iou = np.where(union > 0, areas['intersect'].sum(0) / np.maximum(union, 1), np.nan)
    return {'all': float(np.nanmean(iou)), **dict(zip(classes, iou.tolist()))}


def summarize(run: Path, data: Path) -> dict[str, dict[str, float]]:
    """Collect the scores of a finished quickstart, each in 0..1: ``{score: {'all': …, class: …}}``."""
    annotations = data / 'coco' / 'annotations' / 'instances_val2017.json'
    detections = run / 'detection' / 'test'
    classes = ['background', *(c['name'] for c in json.loads(annotations.read_text())['categories'])]
    return {
        'box AP': precision_by_name(annotations, detections / 'predictions.bbox.json', 'bbox'),
        'mask AP': precision_by_name(annotations, detections / 'predictions.segm.json', 'segm'),
        'mIoU': intersection_over_union(run / 'segmentation' / 'final', classes),
        'mIoU, VMamba': intersection_over_union(run / 'segmentation-vmamba' / 'final', classes),
        'mIoU multi-scale': intersection_over_union(run / 'segmentation' / 'test-multi-scale', classes),
    }


def gate(scores: dict[str, dict[str, float]]) -> list[str]:
    """One sentence for each score that is too low. An empty list is a pass."""
    reached = [(name, scores[name]['all'], floor) for name, floor in FLOORS.items()]
    reached += [
        (f'{whose} of class {name}', iou, CLASS_IOU_FLOOR)
        for score, whose in {'mIoU': 'IoU', 'mIoU, VMamba': "VMamba's IoU"}.items()
        for name, iou in scores[score].items()
        if name != 'all'
    ]
    # "not >=" so that NaN fails too
    return [f'{name} {value:.3f} is below {floor:.2f}' for name, value, floor in reached if not value >= floor]


def _report(scores: dict[str, dict[str, float]], console: Console) -> None:
    columns = list(scores['mIoU'])
    table = Table('score', *columns, 'elsewhere')
    for score, values in scores.items():
        digits = (f'{values[name]:.3f}' if name in values else '' for name in columns)
        table.add_row(score, *digits, KNOWN.get(score, ''))
    console.print(table)
    console.print(
        'elsewhere: the range on the machines that we know (AMD EPYC, Intel Xeon). Rounding differs between '
        'processors, and training amplifies it.',
        soft_wrap=True,
    )


class _Job:
    """One command in its own process. A file has the full log, the console shows progress."""

    def __init__(self, name: str, command: list[str], log: Path, then: 'Callable[[], _Job] | None' = None):
        self.label, self.command, self.log, self.then = name, command, log, then
        self.status: int | None = None

    def run(self) -> None:
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONUNBUFFERED': '1'}
        with (
            self.log.open('w') as log,
            subprocess.Popen(
                self.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process,
        ):
            said = 0.0
            for line in process.stdout:
                log.write(line)
                found = PROGRESS.search(line)
                if line.startswith('***'):
                    print(f'[{self.label}] {line[4:].rstrip()}', flush=True)
                elif found and time.monotonic() - said > 5:
                    said = time.monotonic()
                    phase, step, steps, eta, loss = found.groups()
                    print(
                        f'[{self.label}] {phase} {step}/{steps}'
                        + (f'  eta {eta}' if eta else '')
                        + (f'  loss {loss}' if loss else ''),
                        flush=True,
                    )
        self.status = process.returncode


def _run_two_at_a_time(jobs: Sequence[_Job]) -> None:
    """Run the jobs in their order, then what follows from each. After a failure none is started any more.

    Raises:
        InputError: a job failed; the end of its log is on stderr.
    """
    waiting, done, lock = deque(jobs), list(jobs), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting or any(job.status for job in done):
                    return
                job = waiting.popleft()
            job.run()
            if job.status == 0 and job.then:
                with lock:
                    waiting.append(job.then())
                    done.append(waiting[-1])

    workers = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for job in done:
        if job.status:
            tail = ''.join(job.log.read_text().splitlines(keepends=True)[-15:])
            print(tail, file=sys.stderr)
            raise InputError(f'{job.label} ended with status {job.status}; the log is {job.log}')
    if any(job.status is None for job in done):
        raise InputError('a training or test could not be started')


def _train(run: Path, what: Training, iterations: int | None) -> _Job:
    """One training; its own test follows, if it has one."""
    return _Job(
        what.name,
        command('train', TASKS[what.task], '--work-dir', str(run / what.name), *what.arguments(iterations)),
        run / f'{what.name}.train.log',
        then=(lambda: _test(run, what, iterations)) if what.test_options else None,
    )


def _test(run: Path, what: Training, iterations: int | None) -> _Job:
    folder = run / what.name
    return _Job(
        what.name,
        command(
            'test',
            TASKS[what.task],
            str(folder / _last(folder)),
            '--work-dir',
            str(folder),
            '--show-dir',
            str(folder / 'pictures'),
            *(option.format(folder=folder) for option in what.test_options),
            *what.arguments(iterations),
        ),
        run / f'{what.name}.test.log',
    )


def _last(folder: Path) -> str:
    """Name of the last checkpoint in a work dir."""
    return Path((folder / 'last_checkpoint').read_text().strip()).name


def main(argv: list[str] | None = None) -> None:
    run_with(quickstart_parser().parse_args(argv))


def run_with(args: argparse.Namespace) -> None:
    """The same with the options of :func:`quickstart_parser`."""
    started = time.monotonic()
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime('%Y%m%d-%H%M%S')
    run = (args.out or Path('work_dirs', 'quickstart', stamp)).absolute()
    if run.exists():
        raise InputError(f'--out {run}: exists; nothing was overwritten')
    run.mkdir(parents=True)

    write_shapes(DATA)
    print(f'{DATA}/coco and {DATA}/ade20k are complete', flush=True)
    _run_two_at_a_time([_train(run, each, args.iterations) for each in TRAININGS])

    scores = summarize(run, DATA)
    (run / 'scores.json').write_text(json.dumps(scores, indent=1) + '\n')
    console = Console(width=100)
    _report(scores, console)
    config, weights = TASKS['detection'], run / 'detection' / _last(run / 'detection')
    console.print(
        f'The report, to open in a browser: {write_report([run], run / "report")}\n'
        f'Checkpoints, logs, predictions ({RECORD} beside them) and pictures: {run}\n'
        f'Took {time.monotonic() - started:.0f} s. To go on:\n'
        f'  {sys.executable} -m mmbackbones test {config} {weights}\n'
        f'  {sys.executable} tools/analysis/complexity.py {FULL_SIZE}\n'
        f'  {sys.executable} -m mmbackbones train {FULL_SIZE}',
        soft_wrap=True,
        highlight=False,
    )
    faults = gate(scores)
    if faults:
        raise InputError('the networks did not learn: ' + '; '.join(faults))
    print(
        'quickstart passed: '
        + ', '.join(f'{name} >= {floor:.2f}' for name, floor in FLOORS.items())
        + f', every class IoU >= {CLASS_IOU_FLOOR:.2f}'
    )


if __name__ == '__main__':
    from mmbackbones.engine.command import run_command

    run_command(main)
