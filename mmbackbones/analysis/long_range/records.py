"""Records of runs on the long-range task, and the runs that are missing in a file of records."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmbackbones.analysis.long_range.train import LongRangeRun, train_and_test
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.records import append_record, read_records
from mmbackbones.ops.selective_scan import selective_scan_backend

KIND = 'long_range'


def to_record(run: LongRangeRun, result: dict) -> dict:
    """The record of a finished run: the result of :func:`train_and_test`, machine and software."""
    settings = run.settings()
    data = {key: settings[key] for key in ('task', 'tokens', 'cue_side', 'distractors', 'noise', 'images')}
    recipe = {key: settings[key] for key in ('steps', 'position')}
    return dict(
        kind=KIND,
        config=f'{KIND}_{run.task.task}_{run.mixer}',
        config_hash=_digest({key: value for key, value in settings.items() if key != 'seed'}),
        recipe=' '.join(f'{key}={value}' for key, value in recipe.items()),
        data_fingerprint=_digest(data),
        seed=run.seed,
        precision='fp32',
        scan_backend=selective_scan_backend('cpu').name,
        metrics={bin_name(each): each['correct'] / max(1, each['total']) for each in result['bins']},
        settings=settings,
        result={key: value for key, value in result.items() if key not in settings},
        **environment(),
    )


def bin_name(each: dict) -> str:
    """``'5-8'``: distances in tokens."""
    return f'{each["first"]}-{each["last"]}'


def find_record(run: LongRangeRun, records: Iterable[dict]) -> dict | None:
    """The latest record of the same run."""
    same = [record for record in records if record['kind'] == KIND and record['settings'] == run.settings()]
    return same[-1] if same else None


def run_missing(runs: Sequence[LongRangeRun], path: Path) -> list[dict]:
    """Train and test the runs without a record in ``path``, one after the other, and print each one.

    Args:
        runs: the runs.
        path: file of records. Each run is written before the next one starts, so that finished runs are never lost.

    Returns:
        list[dict]: records of ``runs`` in their order, then those of other mixers and seeds that the file has under
            the same settings.

    Raises:
        InputError: the file exists and cannot be read.
    """
    known = read_records(path) if path.exists() else []
    records = []
    for number, run in enumerate(runs, 1):
        record = find_record(run, known)
        state = 'done before'
        if record is None:
            record = to_record(run, train_and_test(run))
            append_record(path, record)
            state = f'{record["result"]["seconds"]:.0f} s'
        scores = ', '.join(
            f'{bin_name(each)}: {100 * record["metrics"][bin_name(each)]:.1f}' for each in record['result']['bins']
        )
        name = f'{run.mixer}, seed {run.seed}{", cues shuffled" if run.task.shuffled else ""}'
        print(f'[{number}/{len(runs)}] {name}: {scores} ({state})', flush=True)
        records.append(record)
    wanted = [_common(run.settings()) for run in runs]
    more = {
        (record['config_hash'], record['seed']): record
        for record in known
        if record['kind'] == KIND and _common(record['settings']) in wanted
    }  # the latest of equal runs
    done = {(record['config_hash'], record['seed']) for record in records}
    return records + [record for run, record in more.items() if run not in done]


def _common(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key not in ('mixer', 'seed', 'shuffled')}


def _digest(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
