"""Measured throughput of trainings: from the records that they leave, and from CSVs of end_to_end.py and speed.py."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbackbones.analysis.speed.end_to_end import read_log
from mmbackbones.analysis.tables import read_csv
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import RECORDS, WITHOUT_EFFECT, flatten, read_records

FEWEST = 20  # iterations of a training that say something of its speed
RANKS = ('training', 'short training', 'step')  # the earlier is the closer to what is planned


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one training step.

    Attributes:
        kind (str): ``'training'``: a record of a run with validations; ``'short training'``: a run without, or a row of
            end_to_end.py, with loading; ``'step'``: a row of speed.py, the step alone.
        name (str): run name of what was measured.
        identity (str | None): see :func:`identity_of`; None for a row of a CSV, which is found by its name.
        seconds (float): per iteration.
        batch (int): images per process and iteration.
        size (int | None): side of the square images in pixels, of a step.
        precision (str): ``'fp16'``, ``'bf16'`` or ``'fp32'``.
        device (str): its name.
        processes (int): that trained at once.
        peak_mb (float | None): memory that torch held on the device, in 1e6 bytes or in mmengine's MB.
        test_seconds (float | None): of the test of the last checkpoint.
        date (str): ISO 8601.
        source (str): file that holds it.
    """

    kind: str
    name: str
    identity: str | None
    seconds: float
    batch: int
    size: int | None
    precision: str
    device: str
    processes: int
    peak_mb: float | None
    test_seconds: float | None
    date: str
    source: str

    def __post_init__(self):
        if not 0 < self.seconds < math.inf:
            raise ValueError(f'{self.seconds} seconds per iteration')

    @property
    def on_cpu(self) -> bool:
        return 'CPU' in self.device or 'thread(s)' in self.device


def identity_of(settings: dict) -> str:
    """Identity of what sets the time of a training step: model, images and batch of a record's or config's settings.

    Initial weights and the place of the data do not count.
    """
    loader = settings.get('train_dataloader') or {}
    facts = flatten(
        dict(
            model=settings.get('model'),
            pipeline=(loader.get('dataset') or {}).get('pipeline'),
            batch=loader.get('batch_size'),
        )
    )
    kept = {
        key: value
        for key, value in facts.items()
        if 'init_cfg' not in key.split('.') and key.rpartition('.')[2] not in WITHOUT_EFFECT
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:12]


def validates(train_cfg: dict) -> bool:
    """Whether a schedule validates before its end."""
    last = train_cfg.get('max_epochs') or train_cfg.get('max_iters') or 0
    return (train_cfg.get('val_interval') or 1) <= last


def read_measurements(places: Sequence[str | Path]) -> list[Measurement]:
    """Measurements of work dirs, files of records and CSVs.

    Args:
        places: folders, below which all files of records are read; files of records; CSVs.

    Raises:
        InputError: a place is missing or unreadable, or a CSV is none of end_to_end.py or speed.py.
    """
    found: list[Measurement] = []
    for place in map(Path, places):
        if place.is_dir():
            for path in sorted(place.rglob(RECORDS)):
                found += _of_records(path)
        elif not place.exists():
            raise InputError(f'{place}: no such file or folder of measurements')
        elif place.suffix == '.csv':
            found += _of_csv(place)
        elif place.suffix == '.jsonl':
            found += _of_records(place)
        else:
            raise InputError(f'{place}: expected a folder, a {RECORDS} or a CSV')
    return found


def _of_records(path: Path) -> Iterator[Measurement]:
    for record in read_records(path):
        iterations, seconds = record.get('iterations') or 0, record.get('train_seconds')
        if record['kind'] != 'train' or record.get('resumed') or seconds is None or iterations < FEWEST:
            continue
        if not 0 < seconds < math.inf:
            raise InputError(f'{path}: a record has train_seconds={seconds}, which is no time')
        settings = record.get('settings') or {}
        yield Measurement(
            'training' if validates(settings.get('train_cfg') or {}) else 'short training',
            Path(str(record['config'])).name.removesuffix('.py'),
            identity_of(settings),
            seconds / iterations,
            (settings.get('train_dataloader') or {}).get('batch_size') or 0,
            None,
            str(record['precision']),
            str(record['device']),
            record.get('world_size') or 1,
            _peak_of_log(path.parent),
            record.get('test_seconds'),
            str(record['date']),
            str(path),
        )


def _peak_of_log(work_dir: Path) -> float | None:
    if not list(work_dir.glob('*/vis_data/scalars.json')):
        return None
    return max((entry['memory'] for entry in read_log(work_dir) if 'memory' in entry), default=None)


def has_measurements(path: str | Path) -> bool:
    """Whether a CSV has the columns of one of the two tools."""
    columns = set(next(iter(read_csv(path)), ()))
    return 'iterations_per_s' in columns or {'part', 'step', 'images_per_s', 'precision'} <= columns


def _of_csv(path: Path) -> Iterator[Measurement]:
    if not has_measurements(path):
        raise InputError(f'{path}: no CSV of tools/analysis/end_to_end.py or speed.py')
    for number, row in enumerate(read_csv(path), 2):
        try:
            if 'iterations_per_s' in row:
                if int(row['iterations']) >= FEWEST:
                    yield _short_training(path, row)
            elif (row['part'], row['step']) == ('model', 'training') and row['images_per_s']:
                yield _step(path, row)
        except (ValueError, KeyError, ZeroDivisionError, TypeError) as error:
            raise InputError(f'{path}:{number}: no whole row ({type(error).__name__}: {error})') from error


def _short_training(path: Path, row: dict[str, str]) -> Measurement:
    return Measurement(
        'short training',
        row['config'],
        None,
        1 / float(row['iterations_per_s']),
        int(row['batch']),
        None,
        row['precision'],
        row['device'],
        1,
        float(row['peak_mb']) if row['peak_mb'] else None,
        None,
        row['date'],
        str(path),
    )


def _step(path: Path, row: dict[str, str]) -> Measurement:
    peak = row.get('process_peak_mb')
    return Measurement(
        'step',
        row['config'],
        None,
        int(row['batch']) / float(row['images_per_s']),
        int(row['batch']),
        int(row['size']),
        row['precision'],
        row['device'],
        1,
        float(peak) if peak else None,
        None,
        row['date'],
        str(path),
    )
