"""Run many trainings from one list (see :mod:`mmbackbones.launch.suite_file`). A later call resumes them.

Each training with each seed is one job. submitit starts the jobs. They run the commands of ``python -m mmbackbones`` in
the folder from which the suite was started. A run has the folder ``WORK_DIR/<name>/seed<k>``. It is finished if its
record says so; no other state is kept.
"""

import functools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from mmbackbones.engine.config import config_hash, load_config, parse_options
from mmbackbones.engine.process import command
from mmbackbones.engine.work_dir import running_training
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.launch.stopping import StoppableCommand, stop_jobs, submit
from mmbackbones.launch.suite_file import Training, read_suite

MULTI_SCALE = 'final-multi-scale'
POLL_S = 1.0
MONTH_MIN = 60 * 24 * 31  # submitit stops a local job after five minutes unless told otherwise


@dataclass
class Run:
    """One training and its tests. Calling it runs them in this process, from where they stopped.

    Attributes:
        training (Training): config, backbone and arm.
        seed (int): seed of the run.
        work_dir (Path): folder of the run.
        options (list[str]): ``KEY=VALUE`` overrides, including arm and seed.
        gpus (int): number of processes; 0: one, on the CPU.
        multi_scale (bool): whether to test at several scales as well.
        port (int): port by which its processes connect.
    """

    training: Training
    seed: int
    work_dir: Path
    options: list[str]
    gpus: int = 0
    multi_scale: bool = False
    port: int = field(default_factory=lambda: int(os.environ.get('PORT', '29500')))

    @property
    def name(self) -> str:
        return f'{self.training.name} seed {self.seed}'

    @functools.cached_property
    def config_hash(self) -> str:
        """Identity of the configuration with backbone, arm, seed and options."""
        return config_hash(load_config(self.training.config, parse_options(self.options), self.training.backbone))

    def state(self) -> str:
        """``'done'``, ``'to test'``, ``'running'``, ``'started'``, ``'new'``, or ``'stale'``: finished under another
        configuration."""
        if running_training(self.work_dir):
            return 'running'
        record = _record(self.work_dir / 'final')
        if record is None:
            return 'started' if (self.work_dir / 'last_checkpoint').exists() else 'new'
        if record.get('config_hash') != self.config_hash:
            return 'stale'
        return 'to test' if self.multi_scale and _record(self.work_dir / MULTI_SCALE) is None else 'done'

    def metrics(self) -> dict[str, float]:
        """Scores of the last checkpoint; empty before the run is done."""
        return (_record(self.work_dir / 'final') or {}).get('metrics', {})

    def __call__(self) -> None:
        given = ['--backbone', self.training.backbone] if self.training.backbone else []
        place = [*given, '--work-dir', str(self.work_dir), '--cfg-options', *self.options]
        with StoppableCommand() as run:
            if self.state() not in ('done', 'to test'):
                self._execute(run, 'train', self.training.config, '--resume', 'auto', *place)
            if self.state() == 'to test':
                last = self.work_dir / Path((self.work_dir / 'last_checkpoint').read_text().strip()).name
                out = str(self.work_dir / MULTI_SCALE)
                self._execute(run, 'test', self.training.config, str(last), '--tta', '--out', out, *place)

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit before a preempted job is queued again: training resumes by itself."""
        return DelayedSubmission(self)

    def _execute(self, run: StoppableCommand, name: str, *arguments: str) -> None:
        call = command(name, *arguments, processes=self.gpus, port=self.port)
        environment = dict(os.environ) if self.gpus else {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
        print('$', *call, flush=True)
        # torchrun ends its processes by the signal that it gets; Ctrl-C must not reach it beside SIGTERM.
        run(call, environment, own_group=self.gpus > 1)


@dataclass
class Suite:
    """The content of a suite file as runs.

    Attributes:
        runs (list[Run]): in the order of the file, seeds innermost.
        slurm (dict): submitit's parameters for Slurm.
    """

    runs: list[Run]
    slurm: dict = field(default_factory=dict)


def load_suite(path: str | Path, work_dir: str | Path, gpus: int | None = None) -> Suite:
    """Read a suite file and every config that it names.

    Args:
        path: the YAML file.
        work_dir: folder of all its runs.
        gpus: replaces the number in the file.

    Raises:
        InputError: the file, one of its keys or one of its configs is faulty.
    """
    file = read_suite(path)
    runs = [
        Run(
            training,
            seed,
            Path(work_dir, training.name, f'seed{seed}').absolute(),
            [*file.options, *training.options, f'randomness.seed={seed}'],
            file.gpus if gpus is None else gpus,
            file.multi_scale and training.task == 'segmentation',
        )
        for training in file.trainings
        for seed in file.seeds
    ]
    twice = [name for name, count in Counter(run.work_dir for run in runs).items() if count > 1]
    if twice:
        raise InputError(f'{path}: {twice[0].parent.name} with one seed is listed twice')
    return Suite(runs, file.slurm)


def run_suite(suite: Suite, work_dir: str | Path, cluster: str = 'local', jobs: int = 1) -> Iterator[tuple[Run, str]]:
    """Run all unfinished runs. A run that fails does not stop the others; one that is running already is left alone.

    If this is interrupted, the jobs on this machine are told to save and stop, and are waited for.

    Args:
        suite: see :func:`load_suite`.
        work_dir: folder of the suite; its subfolder ``jobs`` has submitit's logs.
        cluster: ``'local'`` or ``'slurm'``.
        jobs: largest number of simultaneous jobs on this machine. On Slurm, Slurm decides.

    Yields:
        tuple[Run, str]: a run and its outcome: ``'skipped'``, ``'started'``, ``'done'``, or a sentence that
        names the log or, if the run is running already, its process.

    Raises:
        InputError: the folder of a run has a result of another configuration, or Slurm is absent. Raised before any
            run starts.
    """
    stale = [run for run in suite.runs if run.state() == 'stale']
    if stale:
        raise InputError(
            f'{stale[0].work_dir}: finished under another configuration than the suite now asks for '
            f'({len(stale)} such runs); move it away or choose another --work-dir'
        )
    if cluster == 'slurm' and shutil.which('srun') is None:
        raise InputError('--cluster slurm: there is no srun on this machine')
    waiting = []
    for run in suite.runs:
        if run.state() == 'done':
            yield run, 'skipped'
        else:
            waiting.append(run)
    logs = Path(work_dir).absolute() / 'jobs' / '%j'
    slots = list(range(jobs if cluster == 'local' else len(waiting)))
    running: dict[int, tuple[Run, submitit.Job]] = {}
    try:
        while waiting or running:
            for slot in [slot for slot in slots if slot not in running]:
                if waiting:
                    run = waiting.pop(0)
                    if holder := running_training(run.work_dir):
                        yield run, f'not started, it is running already: {holder}'
                        continue
                    run.port += slot
                    running[slot] = run, submit(_executor(cluster, logs, run, slot, suite.slurm), run)
                    yield run, 'started'
            for slot, (run, job) in list(running.items()):
                if job.done():
                    del running[slot]
                    yield run, _outcome(run, job)
            if running:
                time.sleep(POLL_S)
    finally:
        if cluster == 'local':
            stop_jobs([job for _, job in running.values()])


def _executor(cluster: str, logs: Path, run: Run, slot: int, slurm: dict) -> submitit.Executor:
    if cluster == 'local':
        executor = submitit.LocalExecutor(logs)
        gpus = run.gpus
        executor.update_parameters(
            timeout_min=MONTH_MIN,
            gpus_per_node=gpus,
            stderr_to_stdout=True,
            visible_gpus=tuple(range(slot * gpus, (slot + 1) * gpus)),
        )
        return executor
    executor = submitit.AutoExecutor(logs, cluster='slurm')
    executor.update_parameters(gpus_per_node=run.gpus, name=run.name.replace(' ', '-'), stderr_to_stdout=True)
    executor.update_parameters(**slurm)
    return executor


def _outcome(run: Run, job: submitit.Job) -> str:
    try:
        failed = job.exception() is not None
    except submitit.core.utils.UncompletedJobError:
        failed = True
    return 'done' if not failed and run.state() == 'done' else f'failed; log: {job.paths.stdout}'


def _record(folder: Path) -> dict | None:
    """The record of a finished test, or None."""
    try:
        return json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f'{folder / RECORD}: not a readable record: {error}') from None
