"""The record of a run, one line of JSON, and the rules that say which records may stand in one table.

Every training, test, measurement and comparison appends its record to a ``records.jsonl``. Tables and figures come only
from records.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config

from mmbackbones.choices import OLD_ATTENTION
from mmbackbones.errors import InputError
from mmbackbones.evaluation.choices import RECORDS as RECORDS

# Every record has these keys; None where a kind of run has no such thing.
REQUIRED = (
    'kind',
    'config',
    'config_hash',
    'recipe',
    'data_fingerprint',
    'seed',
    'versions',
    'device',
    'precision',
    'scan_backend',
    'commit',
    'date',
    'metrics',
)

# Rules, by kind of record. These keys must agree; one that a record lacks altogether is unknown and not judged.
RESULT_KEYS = ('task', 'recipe', 'data_fingerprint', 'train_fingerprint', 'images', 'tta', 'iterations')
MUST_AGREE = {
    'train': (*RESULT_KEYS, 'precision', 'world_size'),
    'test': RESULT_KEYS,  # a test runs in float32; how the checkpoint was trained is in its settings alone
    'speed': ('device', 'precision', 'versions'),
    'long_range': ('recipe', 'data_fingerprint', 'precision'),
}
RESULTS = ('train', 'test')  # both say what a checkpoint scores, so they may meet
# What two results may differ in, because it is what is compared: the backbone, and the channels it hands on.
DECLARED = (
    'model.backbone',
    'model.neck.in_channels',
    'model.decode_head.in_channels',
    'model.auxiliary_head.in_channels',
)
# A backbone of a single stride needs a neck of its own, which makes the pyramid.
PYRAMIDS = ('mmbackbones.SimpleFeaturePyramid', 'Feature2Pyramid')
# Settings that affect a result. Other keys of a config are variables or control the log.
SETTINGS = (
    'model',
    'train_dataloader',
    'test_dataloader',
    'test_evaluator',
    'train_cfg',
    'test_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'custom_hooks',
    'load_from_allow',
    'sync_bn',
    'randomness',
)
MULTI_SCALE = ('tta_pipeline', 'tta_model')
# Below these keys stands where the data lies (its fingerprint is compared), or how fast it is read.
WITHOUT_EFFECT = ('data_root', 'ann_file', 'num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory', 'seed')
# Names in records of version 0.1; today's names stand in for them when such a record is read.
OLD_KINDS = {'probe': 'long_range', 'ladder': 'resolution_sweep'}
# What is told beside a comparison without forbidding it.
SURROUNDINGS = ('device', 'versions', 'commit', 'scan_backend', 'python')


def settings_of(cfg: Config) -> dict:
    """The settings of a configuration that affect its result, as plain data."""
    return plain_data({key: cfg._cfg_dict[key] for key in SETTINGS + MULTI_SCALE if key in cfg._cfg_dict})


def plain_data(node: dict) -> dict:
    """Convert a part of a configuration to JSON types: tuples to lists, types that JSON lacks to text."""
    return json.loads(json.dumps(node, default=str))


def plain_floats(node: object) -> object:
    """The same with None for NaN, which JSON does not have."""
    return json.loads(json.dumps(node), parse_constant=lambda name: None)


def append_record(path: str | Path, record: dict) -> None:
    """Append a record as one line and flush it to the disk. It starts on a new line even after a half-written one.

    Raises:
        ValueError: the record lacks a key of ``REQUIRED``.
    """
    absent = [key for key in REQUIRED if key not in record]
    if absent:
        raise ValueError(f'record of kind {record.get("kind")!r} lacks {", ".join(absent)}')
    line = json.dumps(record, sort_keys=True) + '\n'
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('ab+') as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b'\n':
                line = '\n' + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _warn(sentence: str) -> None:
    print(f'warning: {sentence}', file=sys.stderr, flush=True)


def read_records(path: str | Path, report: Callable[[str], None] = _warn) -> list[dict]:
    """Read the records of a file in the order written, with old names replaced. ``report`` gets each line that is none.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise InputError(f'{path}: no readable file of records ({error.strerror})') from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            report(f'{path}:{number}: half-written line passed over')
            continue
        absent = [key for key in REQUIRED if key not in record] if isinstance(record, dict) else REQUIRED
        if absent:
            report(f'{path}:{number}: no record (it lacks {", ".join(absent)}), passed over')
            continue
        records.append(_with_new_names(record))
    return records


def _with_new_names(record: dict) -> dict:
    kind = OLD_KINDS.get(str(record['kind']), record['kind'])
    renamed = dict(record, kind=kind)
    if record['kind'] == 'probe':
        renamed['config'] = re.sub('^probe_', 'long_range_', str(record['config']))
        renamed['recipe'] = str(record['recipe']).removeprefix('probe ')
    elif record['kind'] == 'ladder':
        renamed['points'] = renamed.pop('rungs', [])
    elif kind == 'speed':
        renamed['attention'] = OLD_ATTENTION.get(str(record.get('attention')), record.get('attention'))
    return renamed


def flatten(node: object, prefix: str = '') -> dict[str, object]:
    """Leaves of nested dicts and lists by their dotted keys. A list of plain values is a leaf."""
    if (isinstance(node, dict) and node) or (isinstance(node, list) and any(isinstance(x, dict | list) for x in node)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {name: value for key, child in items for name, value in flatten(child, f'{prefix}{key}.').items()}
    return {prefix[:-1]: node}


def _necks(record: dict) -> list[dict]:
    """The neck of a record's model, or each of several in a row."""
    necks = (record.get('settings') or {}).get('model', {}).get('neck') or []
    return necks if isinstance(necks, list) else [necks]


def differing_keys(records: Sequence[dict], allow: Sequence[str] = ()) -> list[str]:
    """Keys that forbid to compare records. If there are none, the records may be in one table.

    Args:
        records: records of any kind. Trainings and tests may be compared with each other, other kinds only with their
            own kind.
        allow: further dotted keys, or prefixes of keys, that may differ.
    """
    kinds = {'result' if record['kind'] in RESULTS else record['kind'] for record in records}
    if len(kinds) > 1:
        return ['kind']
    declared = (*DECLARED, *allow)
    if any(neck.get('type') in PYRAMIDS for record in records for neck in _necks(record)):
        declared += ('model.neck',)
    if len({record.get('task') for record in records}) > 1:
        return ['task']
    facts = [_facts(record) for record in records]
    found = set()
    for other in facts[1:]:
        found |= _unequal(facts[0], other)
    # Of two different heads only the type is named, not every argument of either.
    others = tuple(key.removesuffix('.type') for key in found if key.endswith('.type'))
    return sorted(
        key for key in found if not _under(key, declared) and (key.endswith('.type') or not _under(key, others))
    )


def surroundings(records: Sequence[dict]) -> list[str]:
    """Sentences about other differences between comparable records, such as the device."""
    notes = []
    for key in SURROUNDINGS:
        if key == 'versions':
            names = {name for record in records for name in record['versions']}
            values = {name: [record['versions'].get(name) for record in records] for name in sorted(names)}
        else:
            values = {key: [record.get(key) for record in records if record.get(key) is not None]}
        notes += [
            f'{name} differs: {", ".join(dict.fromkeys(map(str, seen)))}'
            for name, seen in values.items()
            if any(value != seen[0] for value in seen)
        ]
    return notes


def arm_of(record: dict) -> str:
    """Identity of the method behind a result: its settings and data without the seed."""
    facts = _settings(record) | {key: record.get(key) for key in ('task', 'data_fingerprint', 'tta')}
    if 'settings' not in record:
        facts['config'] = record['config']
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _facts(record: dict) -> dict[str, object]:
    keys = MUST_AGREE.get(record['kind'], ('recipe', 'data_fingerprint', 'precision', 'device'))
    facts = {key: record[key] for key in keys if key in record}
    return facts | _settings(record) if record['kind'] in RESULTS else facts


def _settings(record: dict) -> dict[str, object]:
    """Settings that affect the result, by dotted keys."""
    if 'settings' not in record:
        return {'settings': 'not recorded'}
    wanted = SETTINGS + (MULTI_SCALE if record.get('tta') else ())
    leaves = flatten({key: record['settings'][key] for key in wanted if key in record['settings']})
    return {key: value for key, value in leaves.items() if key.rpartition('.')[2] not in WITHOUT_EFFECT}


def _unequal(one: dict, other: dict) -> set[str]:
    optional = set(MUST_AGREE['train'])
    return {
        key
        for key in one.keys() | other.keys()
        if one.get(key, ...) != other.get(key, ...) and not (key in optional and (key not in one or key not in other))
    }


def _under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f'{prefix}.') for prefix in prefixes)
