"""What a report is made from: records and saved predictions below the given folders, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbackbones.analysis.compare.collect import collect
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.evaluation.predictions import FinishedRun, load_run
from mmbackbones.evaluation.records import RECORDS, differing_keys, read_records

PICTURES = 'pictures'  # folder in a work dir, for test.py --show-dir
IMAGES = ('.png', '.jpg', '.jpeg')


@dataclass
class Material:
    """Everything found.

    Attributes:
        records (list[dict]): of all kinds, in the order of their dates.
        runs (list[FinishedRun]): saved predictions; of a work dir one for each way of testing.
        pictures (dict[Path, list[Path]]): painted predictions by work dir.
        faults (list[str]): one sentence for everything that was left out.
    """

    records: list[dict] = field(default_factory=list)
    runs: list[FinishedRun] = field(default_factory=list)
    pictures: dict[Path, list[Path]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[dict]:
        return [record for record in self.records if record['kind'] == kind]

    def comparable(self) -> list[list[FinishedRun]]:
        """Runs in groups within which they may be compared, a plain convolution first in each."""
        groups: list[list[FinishedRun]] = []
        for run in sorted(self.runs, key=lambda run: not is_reference(run)):
            images = set(run.record['image_ids'])
            group = next(
                (
                    group
                    for group in groups
                    if not differing_keys([group[0].record, run.record]) and set(group[0].record['image_ids']) == images
                ),
                None,
            )
            groups.append([run]) if group is None else group.append(run)
        return groups


def is_reference(run: FinishedRun) -> bool:
    """Whether the run is MambaOut itself, under whichever name: what the others are measured against."""
    backbone = run.record['settings']['model'].get('backbone', {})
    plain = backbone.get('type') == 'mmbackbones.GatedMixerNet' and backbone.get('mixers', 'none') == 'none'
    return plain or backbone.get('type') == 'mmbackbones.MambaOut'


def gather(folders: Sequence[str | Path]) -> Material:
    """Look through work dirs, and all below them.

    Raises:
        InputError: a folder does not exist, or there is nothing to report on.
    """
    found = Material()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f'{folder}: no such folder')
        for path in _visible(folder, RECORDS):
            found.records += read_records(path, lambda line: None)  # collect names what is damaged
        for path in _visible(folder, RECORD):
            try:
                found.runs.append(load_run(path.parent))
            except InputError as error:
                found.faults.append(str(error))
        for path in _visible(folder, RECORDS):
            painted = [
                picture
                for picture in _visible(path.parent, '*')
                if picture.suffix in IMAGES and PICTURES in picture.relative_to(path.parent).parts
            ]
            if painted:
                found.pictures[path.parent] = painted
    judged = collect(folders)
    found.faults += judged.notes + [f'{work_dir}: {reason}' for work_dir, reason in judged.left_out.items()]
    rejected = {work_dir.resolve() for work_dir in judged.left_out}
    found.runs = [run for run in found.runs if run.work_dir.resolve() not in rejected]
    found.records = _unique(sorted(found.records, key=lambda record: record['date']))
    found.runs = _one_per_test(found.runs)
    if not found.records and not found.runs:
        raise InputError(f'{", ".join(map(str, folders))}: no records of finished runs below')
    return found


def _visible(folder: Path, name: str) -> list[Path]:
    """Files below a folder, but for those in hidden ones, which are half-written."""
    return sorted(
        path
        for path in folder.rglob(name)
        if path.is_file() and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def _unique(records: list[dict]) -> list[dict]:
    return [record for place, record in enumerate(records) if record not in records[:place]]


def _one_per_test(runs: list[FinishedRun]) -> list[FinishedRun]:
    """A checkpoint that was tested again has the same predictions twice; the first folder stays."""
    kept: dict[tuple, FinishedRun] = {}
    for run in runs:
        metrics = tuple(sorted(run.record['metrics'].items()))
        kept.setdefault((run.work_dir.resolve(), run.record['config_hash'], bool(run.record.get('tta')), metrics), run)
    return list(kept.values())
