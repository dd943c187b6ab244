"""Records of runs on the long-range task, and the runs that are missing in a file of records."""

import contextlib
import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbackbones.analysis.long_range.images import check_workers
from mmbackbones.analysis.long_range.runs import LongRangeRun
from mmbackbones.analysis.long_range.state import StateFile
from mmbackbones.analysis.long_range.train import train_and_test
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import commit, cpu_device, environment
from mmbackbones.evaluation.records import append_record, read_records
from mmbackbones.ops.selective_scan import selective_scan_backend

KIND = 'long_range'
# Settings of the data and of the training; the last ones of each are left out at their defaults.
DATA = ('task', 'tokens', 'cue_side', 'distractors', 'noise', 'images', 'copies', 'reach')
RECIPE = ('steps', 'position', 'curriculum', 'curriculum_share', 'batch', 'draw')


def to_record(run: LongRangeRun, result: dict) -> dict:
    """The record of a finished run: the result of :func:`train_and_test`, machine and software."""
    settings = run.settings()
    # A machine with a GPU trains on its CPU if asked to.
    device = dict(device=cpu_device()) if run.device == 'cpu' else {}
    data = {key: settings[key] for key in DATA if key in settings}
    recipe = {key: settings[key] for key in RECIPE if key in settings}
    return dict(
        kind=KIND,
        config=f'{KIND}_{run.task.task}_{run.mixer}',
        config_hash=_digest({key: value for key, value in settings.items() if key != 'seed'}),
        recipe=' '.join(f'{key}={value}' for key, value in recipe.items()),
        data_fingerprint=_digest(data),
        seed=run.seed,
        precision=run.precision,
        scan_backend=selective_scan_backend(run.device).name,
        metrics={bin_name(each): each['correct'] / max(1, each['total']) for each in result['bins']},
        settings=settings,
        result={key: value for key, value in result.items() if key not in settings},
        **(environment() | device),
    )


def bin_name(each: dict) -> str:
    """``'5-8'``: distances in tokens."""
    return f'{each["first"]}-{each["last"]}'


def find_record(run: LongRangeRun, records: Iterable[dict]) -> dict | None:
    """The latest record of the same run."""
    same = [record for record in records if record['kind'] == KIND and record['settings'] == run.settings()]
    return same[-1] if same else None


@dataclass(frozen=True)
class HowToRun:
    """What makes runs faster or safer and leaves their results as they are.

    Attributes:
        jobs (int): runs at a time, each in a process of its own if there are several.
        workers (int): processes per run that draw images ahead.
        threads (int): CPU threads per run.
        save_every (int): steps after which a run keeps its state in ``unfinished/`` beside the records.

    Raises:
        InputError: one of these is out of its range.
    """

    jobs: int = 1
    workers: int = 0
    threads: int = 1
    save_every: int = 500

    def __post_init__(self):
        for name, least in (('jobs', 1), ('workers', 0), ('threads', 1), ('save_every', 1)):
            if getattr(self, name) < least:
                option = f'--{name.replace("_", "-")}'
                raise InputError(f'{option} {getattr(self, name)}: expected {least} or more')

    def run(self, run: LongRangeRun, folder: Path) -> dict:
        """The record of a run, done here. Its state stays in ``folder`` until the caller removes it."""
        torch.set_num_threads(self.threads)
        source = commit()  # the tree may have changed when the training is done
        result = train_and_test(run, workers=self.workers, saved=self.state_file(run, folder))
        return to_record(run, result) | dict(commit=source)

    def state_file(self, run: LongRangeRun, folder: Path) -> StateFile:
        """Where a run keeps its state."""
        name = f'{run.task.task}_{run.mixer.replace(":", "-")}_{run.seed}_{_digest(run.settings())}.pt'
        return StateFile(self.folder_of_states(folder) / name, self.save_every)

    @staticmethod
    def folder_of_states(folder: Path) -> Path:
        """The folder of all states beside the records of ``folder``."""
        return folder / 'unfinished'


def run_missing(runs: Sequence[LongRangeRun], path: Path, how: HowToRun = HowToRun()) -> list[dict]:
    """Train and test the runs without a record in ``path``, and print each one.

    Args:
        runs: the runs.
        path: file of records. Each run is written when it is done, so that finished runs are never lost. A run that
            was stopped goes on from its last state.
        how: how many at a time, and by what help.

    Returns:
        list[dict]: records of ``runs`` in their order, then those of other mixers and seeds that the file has under
            the same settings.

    Raises:
        InputError: the file exists and cannot be read, a state is damaged, or workers cannot draw the images.
    """
    for run in runs:
        check_workers(run, how.workers)
    known = read_records(path) if path.exists() else []
    done = {run: find_record(run, known) for run in runs}
    missing = [run for run, record in done.items() if record is None]
    for number, run in enumerate(runs, 1):
        if done[run] is not None:
            _tell(number, runs, done[run], 'done before')
    for run, record in _each_done(missing, path.parent, how):
        append_record(path, record)
        how.state_file(run, path.parent).remove()
        done[run] = record
        _tell(runs.index(run) + 1, runs, record, f'{record["result"]["seconds"]:.0f} s')
    with contextlib.suppress(OSError):  # it is not there, or has states of other runs
        how.folder_of_states(path.parent).rmdir()
    records = [done[run] for run in runs]
    wanted = [_common(run.settings()) for run in runs]
    more = {
        (record['config_hash'], record['seed']): record
        for record in known
        if record['kind'] == KIND and _common(record['settings']) in wanted
    }  # the latest of equal runs
    own = {(record['config_hash'], record['seed']) for record in records}
    return records + [record for run, record in more.items() if run not in own]


def _each_done(runs: Sequence[LongRangeRun], folder: Path, how: HowToRun) -> Iterator[tuple[LongRangeRun, dict]]:
    """The runs with their records, as they come to an end."""
    if how.jobs == 1 or len(runs) < 2:
        for run in runs:
            yield run, how.run(run, folder)
        return
    # A forked process could not use a GPU that this one has touched.
    with ProcessPoolExecutor(min(how.jobs, len(runs)), multiprocessing.get_context('spawn')) as pool:
        waiting = {pool.submit(how.run, run, folder): run for run in runs}
        failed = None
        for future in as_completed(waiting):
            if future.cancelled():
                continue
            if error := future.exception():
                failed = failed or error
                for other in waiting:
                    other.cancel()  # those that have begun go on to their end
            else:
                yield waiting[future], future.result()
    if failed is not None:
        raise failed


def _tell(number: int, runs: Sequence[LongRangeRun], record: dict, state: str) -> None:
    scores = ', '.join(
        f'{bin_name(each)}: {100 * record["metrics"][bin_name(each)]:.1f}' for each in record['result']['bins']
    )
    run = runs[number - 1]
    name = f'{run.mixer}, seed {run.seed}{", cues shuffled" if run.task.shuffled else ""}'
    print(f'[{number}/{len(runs)}] {name}: {scores} ({state})', flush=True)


def _common(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key not in ('mixer', 'seed', 'shuffled')}


def _digest(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
