"""One results table from the records of finished runs, with published numbers beside them.

Runs that may not be compared get separate tables. A run that is incomplete, mixed or stale gets a reason in place of a
score.
"""

from collections.abc import Sequence
from pathlib import Path

from mmbackbones.analysis.compare.results import Result, Results
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import commit
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.evaluation.records import (
    RECORDS,
    arm_of,
    differing_keys,
    flatten,
    read_records,
    settings_of,
    surroundings,
)
from mmbackbones.paths import find_config
from mmbackbones.zoo.published import match


def collect(work_dirs: Sequence[str | Path]) -> Results:
    """Collect the results of work dirs, or of folders of work dirs.

    Raises:
        InputError: a folder does not exist.
    """
    found = Results()
    for work_dir in _expand(work_dirs):
        try:
            result = _result_of(work_dir, found.notes)
        except InputError as error:
            found.left_out[work_dir] = str(error)
            continue
        _place(result, found)
    for number, table in enumerate(found.tables, 1):
        found.notes += [f'table {number}: {note}' for note in surroundings([result.record for result in table])]
    return found


def _expand(paths: Sequence[str | Path]) -> list[Path]:
    work_dirs = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f'{path}: no such work dir')
        # A work dir has records, logs or checkpoints of its own; what holds only such folders is a collection.
        inner = (
            []
            if _is_work_dir(path)
            else sorted(child for child in path.rglob('*') if child.is_dir() and _is_work_dir(child))
        )
        work_dirs += inner or [path]
    return list(dict.fromkeys(work_dirs))


def _is_work_dir(path: Path) -> bool:
    return (
        (path / RECORDS).is_file()
        or (path / 'final').is_dir()
        or any(path.glob('*.pth'))
        or (path / 'last_checkpoint').is_file()
    )


def _result_of(work_dir: Path, notes: list[str]) -> Result:
    """The result in the records of a work dir.

    Raises:
        InputError: the work dir is incomplete, mixed or stale.
    """
    records = read_records(work_dir / RECORDS, notes.append) if (work_dir / RECORDS).is_file() else []
    trained = [record for record in records if record['kind'] == 'train']
    tested = [record for record in records if record['kind'] == 'test']
    checkpoints = sorted(work_dir.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    final = (work_dir / 'final' / RECORD).is_file()
    if not trained and final:
        raise InputError('incomplete: final/ has no line among the records; test its checkpoint again')
    if not trained and checkpoints:
        raise InputError(f'incomplete: the training did not end, its newest checkpoint is {checkpoints[-1].name}')
    if not trained and not tested:
        kinds = sorted({record['kind'] for record in records})
        raise InputError(f'incomplete: no result among its records ({", ".join(kinds) or "there are none"})')
    if trained and not final:
        raise InputError(f'incomplete: recorded, but final/{RECORD} is gone')
    main = (trained or [record for record in tested if not record['tta']] or tested)[-1]
    _require_one_run([main, *trained, *tested])
    remarks = _staleness(main)
    if len(trained) > 1:
        remarks.append(f'trained {len(trained)} times here, the last one counts')
    if main.get('resumed'):
        remarks.append('resumed: the time of the whole training is not known')
    if not trained:
        remarks.append(f'tested only: {main.get("checkpoint")}')
    made_at, now = str(main['commit']), str(commit())
    if made_at.endswith('+'):
        remarks.append('run from uncommitted changes')
    elif made_at != now.rstrip('+'):
        remarks.append(f'run at commit {made_at}, the code is at {now}')
    multi_scale = [record for record in tested if record['tta'] and _is_last(record, work_dir, trained)]
    macs = [record['metrics'].get('macs') for record in records if record['kind'] == 'complexity']
    recipe = main['recipe'] if main['recipe'] in ('common', 'native', 'quickstart') else None
    published = match(main.get('config_file') or main['config'], recipe, main.get('backbone'))
    remarks += [published.remark] if published.remark else []
    return Result(
        work_dir,
        main,
        multi_scale[-1] if multi_scale else None,
        macs[-1] / 1e9 if macs and macs[-1] else None,
        published,
        remarks,
    )


def _is_last(record: dict, work_dir: Path, trained: Sequence[dict]) -> bool:
    pointer = work_dir / 'last_checkpoint'
    return not trained or (
        record['date'] >= trained[-1]['date']
        and pointer.is_file()
        and Path(pointer.read_text().strip()).name == record.get('checkpoint')
    )


def _require_one_run(records: Sequence[dict]) -> None:
    for other in records[1:]:
        keys = differing_keys([dict(record, tta=False) for record in (records[0], other)])
        if records[0].get('iterations') != other.get('iterations', records[0].get('iterations')):
            keys = [key for key in keys if key != 'iterations']  # a training that went on
        if not keys and arm_of(dict(records[0], tta=False)) != arm_of(dict(other, tta=False)):
            keys = ['model.backbone']
        if records[0]['seed'] != other['seed']:
            keys.append('seed')
        if keys:
            raise InputError(f'mixed: the records of one work dir differ in {", ".join(keys)}')


def _staleness(record: dict) -> list[str]:
    """Raise an error if the config is not that of the run. Returns remarks if this cannot be checked.

    Raises:
        InputError: the config file has changed since.
    """
    try:
        path = find_config(record.get('config_file') or record['config'])
    except InputError:
        return [f'the config file {record.get("config_file")} is not here, so it was not compared with the run']
    now, then = (
        flatten(settings)
        for settings in (
            settings_of(load_config(str(path), record.get('options'), record.get('backbone'))),
            record['settings'],
        )
    )
    keys = sorted(key for key in now.keys() | then.keys() if now.get(key, ...) != then.get(key, ...))
    if keys:
        raise InputError(f'stale: {path.name} has changed since the run, in {", ".join(keys)}')
    return []


def _place(result: Result, found: Results) -> None:
    """Add a result to the first table whose results it may be compared with."""
    keys = []
    for table in found.tables:
        keys.append(differing_keys([_bare(table[0].record), _bare(result.record)]))
        if not keys[-1]:
            table.append(result)
            return
    found.tables.append([result])
    if keys:
        number = min(range(len(keys)), key=lambda index: len(keys[index])) + 1
        found.apart.append(
            f'table {len(found.tables)} is kept apart from table {number}: they differ in {", ".join(keys[number - 1])}'
        )


def _bare(record: dict) -> dict:
    return dict(record, tta=False) if record['kind'] == 'test' else record
