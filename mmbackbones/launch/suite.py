"""Many trainings from one list: configs times seeds, each a job of its own, resumed where an earlier call left off.

A suite is a YAML file::

    configs: [configs/quickstart/….py, …]   # relative to the project
    seeds: [0, 1, 2]
    gpus: 8                                 # processes per run; 0: on the CPU
    multi_scale: true                       # test segmentors at several scales too
    cfg_options: [train_cfg.max_iters=20]   # for every run, as on the command line
    slurm: {slurm_partition: gpu, timeout_min: 2880}

Jobs go through submitit, whose parameters for Slurm ``slurm`` holds. Run r of a suite lives in
``WORK_DIR/<config>/seed<k>`` and is finished once its record says so: nothing else is remembered.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import submitit
import yaml
from submitit.helpers import DelayedSubmission

from mmbackbones.engine.config import Overrides, config_hash, load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import RECORD, task_of

ROOT = Path(__file__).resolve().parents[2]
KEYS = ('configs', 'seeds', 'gpus', 'multi_scale', 'cfg_options', 'slurm')
MULTI_SCALE = 'final-multi-scale'
POLL_S = 1.0
MONTH_MIN = 60 * 24 * 31  # submitit stops a local job after five minutes unless told otherwise


@dataclass
class Run:
    """One training and its tests; calling it runs them here, from where they stopped.

    Attributes:
        config (str): config file, relative to the project.
        seed (int): of the run.
        work_dir (Path): its own folder.
        config_hash (str): identity of the configuration with seed and options.
        options (list[str]): ``KEY=VALUE`` overrides, the seed among them.
        gpus (int): processes; 0: one, on the CPU.
        multi_scale (bool): whether to test at several scales as well.
    """

    config: str
    seed: int
    work_dir: Path
    config_hash: str
    options: list[str]
    gpus: int = 0
    multi_scale: bool = False
    port: int = 29500

    @property
    def name(self) -> str:
        return f'{Path(self.config).stem} seed {self.seed}'

    def state(self) -> str:
        """``'done'``, ``'to test'``, ``'started'``, ``'new'``, or ``'stale'``: finished under another configuration."""
        record = _record(self.work_dir / 'final')
        if record is None:
            return 'started' if (self.work_dir / 'last_checkpoint').exists() else 'new'
        if record.get('config_hash') != self.config_hash:
            return 'stale'
        return 'to test' if self.multi_scale and _record(self.work_dir / MULTI_SCALE) is None else 'done'

    def metrics(self) -> dict[str, float]:
        """What the last checkpoint reached; empty before the run is done."""
        return (_record(self.work_dir / 'final') or {}).get('metrics', {})

    def __call__(self) -> None:
        place = ['--work-dir', str(self.work_dir), '--cfg-options', *self.options]
        if self.state() not in ('done', 'to test'):
            self._execute('train', [self.config], ['--resume', 'auto', *place])
        if self.state() == 'to test':
            last = self.work_dir / Path((self.work_dir / 'last_checkpoint').read_text().strip()).name
            self._execute(
                'test', [self.config, str(last)], ['--tta', '--out', str(self.work_dir / MULTI_SCALE), *place]
            )

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit before a preempted job is queued again: training resumes by itself."""
        return DelayedSubmission(self)

    def _execute(self, command: str, arguments: list[str], options: list[str]) -> None:
        if self.gpus > 1:
            call = ['bash', f'tools/dist_{command}.sh', *arguments, str(self.gpus), *options]
        else:
            call = [sys.executable, f'tools/{command}.py', *arguments, *options]
        environment = {**os.environ, 'PYTHON': sys.executable, 'PORT': str(self.port)}
        if not self.gpus:
            environment['CUDA_VISIBLE_DEVICES'] = ''
        print('$', *call, flush=True)
        subprocess.run(call, cwd=ROOT, env=environment, check=True)


@dataclass
class Suite:
    """What a suite file says, each run with its place and identity.

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
        gpus: instead of the file's.

    Raises:
        InputError: the file, a key or a config of it is at fault.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f'{path}: no such suite file') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: not a readable YAML file: {" ".join(str(error).split())}') from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: expected a mapping with the keys {", ".join(KEYS)}')
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise InputError(f'{path}: unknown key {unknown[0]!r}; known: {", ".join(KEYS)}')
    configs = _list_of(str, content, 'configs', path)
    seeds = _list_of(int, content, 'seeds', path)
    options = _list_of(str, content, 'cfg_options', path, default=[])
    gpus = content.get('gpus', 0) if gpus is None else gpus
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 0:
        raise InputError(f'{path}: gpus={gpus}: expected a number of processes, 0 for the CPU')
    multi_scale, slurm = content.get('multi_scale', False), content.get('slurm') or {}
    if not isinstance(multi_scale, bool):
        raise InputError(f'{path}: multi_scale={multi_scale}: expected true or false')
    if not isinstance(slurm, dict):
        raise InputError(f'{path}: slurm: expected a mapping of submitit parameters')

    runs = []
    for config in configs:
        cfg = load_config(str(ROOT / config), _parse(options))
        for seed in seeds:
            cfg.merge_from_dict({'randomness.seed': seed})
            runs.append(
                Run(
                    config,
                    seed,
                    Path(work_dir, Path(config).stem, f'seed{seed}').absolute(),
                    config_hash(cfg),
                    [*options, f'randomness.seed={seed}'],
                    gpus,
                    multi_scale and task_of(cfg) == 'segmentation',
                )
            )
    twice = [run.work_dir.parent.name for run in runs if sum(run.work_dir == other.work_dir for other in runs) > 1]
    if twice:
        raise InputError(f'{path}: {twice[0]} with one seed is listed twice')
    return Suite(runs, slurm)


def run_suite(suite: Suite, work_dir: str | Path, cluster: str = 'local', jobs: int = 1) -> Iterator[tuple[Run, str]]:
    """Run what is not done yet; a run that fails does not stop the others.

    Args:
        suite: see :func:`load_suite`.
        work_dir: its folder; submitit's logs go into ``jobs`` within.
        cluster: ``'local'`` or ``'slurm'``.
        jobs: how many may run at a time, on this machine; Slurm decides for itself.

    Yields:
        tuple[Run, str]: a run and what became of it: ``'skipped'``, ``'started'``, ``'done'``, or a sentence that
        names the log.

    Raises:
        InputError: before anything starts: a run's folder holds a result of another configuration, or Slurm is absent.
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
                    run.port += slot
                    running[slot] = run, _executor(cluster, logs, run, slot, suite.slurm).submit(run)
                    yield run, 'started'
            for slot, (run, job) in list(running.items()):
                if job.done():
                    del running[slot]
                    yield run, _outcome(run, job)
            if running:
                time.sleep(POLL_S)
    finally:
        if cluster == 'local':
            for _, job in running.values():
                job.cancel(check=False)


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
    """The record of a finished test; None where there is none."""
    try:
        return json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f'{folder / RECORD}: not a readable record: {error}') from None


def _list_of(kind: type, content: dict, key: str, path: str | Path, default: list | None = None) -> list:
    values = content.get(key, default)
    if not isinstance(values, list) or (not values and default is None):
        raise InputError(f'{path}: {key}: expected a list')
    for value in values:
        if type(value) is not kind:
            raise InputError(f'{path}: {key}: {value!r}: expected {kind.__name__}')
    return values


def _parse(options: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Overrides)
    return parser.parse_args(['--cfg-options', *options]).cfg_options if options else {}
