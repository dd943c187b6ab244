"""Gather the data of a report, each read and computed once: records, scores, comparisons, curves and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbackbones.analysis.compare.collect import collect
from mmbackbones.analysis.compare.comparison import Comparison
from mmbackbones.analysis.compare.paired import compare_scores
from mmbackbones.analysis.evidence.page import Selection
from mmbackbones.analysis.evidence.points import Point
from mmbackbones.analysis.long_range import records as long_range
from mmbackbones.analysis.long_range.curves import Curve, curves
from mmbackbones.analysis.report.pictures import fullest_first
from mmbackbones.analysis.report.scores import Score, arms_of, name_of, scores_of
from mmbackbones.analysis.tokens import sweep_points
from mmbackbones.analysis.tokens.sweep_points import SweepPoint, points_of
from mmbackbones.datasets.long_range import grid_of
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import draw_counts
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.evaluation.predictions import FinishedRun, Sample, annotation_file, load_run
from mmbackbones.evaluation.records import RECORDS, differing_keys, read_records
from mmbackbones.evaluation.scores import Values, score

PICTURES = 'pictures'  # folder in a work dir, for test.py --show-dir
IMAGES = ('.png', '.jpg', '.jpeg')


@dataclass
class Found:
    """Content of the given folders.

    Attributes:
        records (list[dict]): records of all kinds, in the order of their dates.
        runs (list[FinishedRun]): runs with saved predictions; one for each way of testing a work dir.
        pictures (dict[Path, list[Path]]): images of predictions by work dir.
        faults (list[str]): one sentence for each item left out.
    """

    records: list[dict] = field(default_factory=list)
    runs: list[FinishedRun] = field(default_factory=list)
    pictures: dict[Path, list[Path]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[dict]:
        return [record for record in self.records if record['kind'] == kind]


@dataclass(frozen=True)
class Sweep:
    """A resolution sweep: name of the config, whether it was trained at each size, and scores."""

    config: str
    trained: bool
    points: list[SweepPoint]


@dataclass(frozen=True)
class LongRangeCurves:
    """Accuracy against distance in one setting of the synthetic long-range task."""

    task: str
    title: str
    curves: list[Curve]


@dataclass(frozen=True)
class ReportData:
    """All data of a report. The parts document their units.

    Attributes:
        records (int): number of records.
        runs (list[FinishedRun]): runs with saved predictions.
        scores (list[Score]): scores of their arms.
        comparisons (list[Comparison]): one per group of comparable runs.
        sweeps (list[Sweep]): scores against tokens.
        tokens (list[dict]): records of token counts.
        timings (dict[str, list[dict]]): records of speed by conditions.
        long_range (list[LongRangeCurves]): one per setting.
        published (dict[str, list[Point]]): published scores of the zoo's networks, by metric.
        pictures (dict[Path, list[Path]]): painted predictions by work dir, those with the most objects first.
        faults (list[str]): one sentence for everything that was left out.
        resamples, seed (int): number of resamples and seed of every bootstrap.
    """

    records: int
    runs: list[FinishedRun]
    scores: list[Score]
    comparisons: list[Comparison]
    sweeps: list[Sweep]
    tokens: list[dict]
    timings: dict[str, list[dict]]
    long_range: list[LongRangeCurves]
    published: dict[str, list[Point]]
    pictures: dict[Path, list[Path]]
    faults: list[str]
    resamples: int
    seed: int


def gather(folders: Sequence[str | Path], resamples: int = 1000, seed: int = 0) -> ReportData:
    """Read work dirs and all folders below them, score every run once, and compare comparable runs.

    Args:
        folders: work dirs, or folders that hold some.
        resamples: of every bootstrap.
        seed: of its draws.

    Raises:
        InputError: a folder does not exist, or there is nothing to report on.
    """
    found = read_folders(folders)
    faults: list[str] = list(found.faults)
    scored: dict[Path, Values] = {}
    for run in found.runs:
        try:
            scored[run.folder] = _score(run, resamples, seed)
        except InputError as error:
            faults.append(f'no interval for {name_of(run)}: {error}')
    runs = [run for run in found.runs if run.folder in scored]
    return ReportData(
        records=len(found.records),
        runs=found.runs,
        scores=[each for arm in arms_of(runs) for each in scores_of(*arm, scored)],
        comparisons=[
            _comparison([(run, scored[run.folder]) for run in group], resamples, seed)
            for group in comparable(runs)
            if len(group) > 1
        ],
        sweeps=[
            Sweep(Path(record['config']).stem, record['trained'] == 'train', points_of(record))
            for record in found.of_kind(sweep_points.KIND)
        ],
        tokens=found.of_kind('tokens'),
        timings=_timings(found.of_kind('speed')),
        long_range=_long_range(found.of_kind(long_range.KIND)),
        published=Selection().points(),
        pictures={
            work_dir: fullest_first(paths, [run for run in found.runs if run.work_dir == work_dir])
            for work_dir, paths in found.pictures.items()
        },
        faults=faults,
        resamples=resamples,
        seed=seed,
    )


def read_folders(folders: Sequence[str | Path]) -> Found:
    """Read work dirs and all folders below them.

    Raises:
        InputError: a folder does not exist, or there is nothing to report on.
    """
    found = Found()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f'{folder}: no such folder')
        for path in _visible(folder, RECORDS):
            found.records += read_records(path, lambda line: None)  # collect names what is damaged
            painted = [
                picture
                for picture in _visible(path.parent, '*')
                if picture.suffix in IMAGES and PICTURES in picture.relative_to(path.parent).parts
            ]
            if painted:
                found.pictures[path.parent] = painted
        for path in _visible(folder, RECORD):
            try:
                found.runs.append(load_run(path.parent))
            except InputError as error:
                found.faults.append(str(error))
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
    """Files below a folder, except in hidden folders, which are incomplete."""
    return sorted(
        path
        for path in folder.rglob(name)
        if path.is_file() and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def _unique(records: list[dict]) -> list[dict]:
    return [record for place, record in enumerate(records) if record not in records[:place]]


def _one_per_test(runs: list[FinishedRun]) -> list[FinishedRun]:
    """Keep the first folder if a checkpoint was tested again, because the predictions are the same."""
    kept: dict[tuple, FinishedRun] = {}
    for run in runs:
        metrics = tuple(sorted(run.record['metrics'].items()))
        kept.setdefault((run.work_dir.resolve(), run.record['config_hash'], bool(run.record.get('tta')), metrics), run)
    return list(kept.values())


def comparable(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Groups of comparable runs. MambaOut itself is first in its group."""
    groups: list[list[FinishedRun]] = []
    for run in sorted(runs, key=lambda run: not is_reference(run)):
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
    """Whether the run is MambaOut itself, under any name. It is the reference of the others."""
    backbone = run.record['settings']['model'].get('backbone', {})
    plain = backbone.get('type') == 'mmbackbones.GatedMixerNet' and backbone.get('mixers', 'none') == 'none'
    return plain or backbone.get('type') == 'mmbackbones.MambaOut'


def _score(run: FinishedRun, resamples: int, seed: int) -> Values:
    """Scores in the data and in each resample.

    Raises:
        InputError: predictions or annotations are missing or damaged.
    """
    sample = Sample(run, annotation_file(run) if run.record['task'] == 'detection' else None)
    return score(run, sample, draw_counts(len(sample.image_ids), resamples, seed), splits=())


def _comparison(scored: Sequence[tuple[FinishedRun, Values]], resamples: int, seed: int) -> Comparison:
    images = len(scored[0][0].record['image_ids'])
    return compare_scores(scored, images, resamples, seed)


def _timings(records: Sequence[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for record in records:
        what = [
            Path(record['config']).stem,
            record['part'],
            record['step'],
            f'batch {record["batch"]}',
            record['scan_backend'],
            record['attention'],
            record['precision'],
            record['device'],
        ]
        found.setdefault(', '.join(filter(None, what)), []).append(record)
    return found


def _long_range(records: Sequence[dict]) -> list[LongRangeCurves]:
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        alike = ('recipe', 'data_fingerprint', 'precision')
        groups.setdefault((record['settings']['task'], *(record[key] for key in alike)), []).append(record)
    found = []
    for (task, recipe, *_), group in groups.items():
        height, width = grid_of(group[0]['settings']['tokens'])
        drawn = curves(group)
        if drawn:
            found.append(LongRangeCurves(task, f'{task}, {height} x {width} tokens, {recipe}', drawn))
    return found
