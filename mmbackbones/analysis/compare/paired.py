"""Test whether a difference in AP or mIoU is real, by a paired bootstrap over the images of the test.

With fewer than three seeds per arm the answer is about these checkpoints. With three or more, a hierarchical bootstrap
over seeds and images gives an answer about the methods. docs/compare.md has formulas and limits.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbackbones.analysis.compare.comparison import Arm, Comparison, Difference
from mmbackbones.analysis.compare.names import network_of, unique
from mmbackbones.analysis.compare.show import sentence
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS, draw_counts, holm, interval, mean_over_seeds, p_value
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.predictions import SPLITS, FinishedRun, Sample, annotation_file, load_run
from mmbackbones.evaluation.records import arm_of, differing_keys, plain_floats, surroundings
from mmbackbones.evaluation.scores import Values, score, scored_metrics


def compare_runs(
    paths: Sequence[str | Path],
    resamples: int = 1000,
    seed: int = 0,
    allow: Sequence[str] = (),
    splits: Sequence[str] = SPLITS,
    metrics: Sequence[str] | None = None,
    annotations: Path | None = None,
) -> Comparison:
    """Compare saved predictions with those of the first arm.

    Args:
        paths: work dirs of trainings or ``--out`` folders of tests. Runs that differ only in their seed form an arm.
        resamples: number of resamples.
        seed: seed of the resamples.
        allow: keys, or prefixes of keys, that may differ besides the backbone and its channels.
        splits: some of ``SPLITS``.
        metrics: ``'box AP'`` and ``'mask AP'`` by default, for detectors.
        annotations: COCO annotation file, if its path differs from the config.

    Raises:
        InputError: fewer than two runs, runs that may not be compared (the keys are named), or faulty predictions.
    """
    scored, images = score_runs(paths, resamples, seed, allow, splits, metrics, annotations)
    return compare_scores(scored, images, resamples, seed, splits)


def score_runs(
    paths: Sequence[str | Path],
    resamples: int = 1000,
    seed: int = 0,
    allow: Sequence[str] = (),
    splits: Sequence[str] = SPLITS,
    metrics: Sequence[str] | None = None,
    annotations: Path | None = None,
) -> tuple[list[tuple[FinishedRun, Values]], int]:
    """Runs with scores on the same draws, and the number of images. Arguments and errors: see :func:`compare_runs`."""
    runs = [load_run(path) for path in paths]
    _require_comparable(runs, allow)
    detection = runs[0].record['task'] == 'detection'
    scorable = [scored_metrics(run) for run in runs]
    wanted = metrics or [name for name in scorable[0] if all(name in names for names in scorable)]
    sample = Sample(runs[0], annotation_file(runs[0], annotations) if detection else None)
    counts = draw_counts(len(sample.image_ids), resamples, seed)
    return [(run, score(run, sample, counts, splits, wanted)) for run in runs], len(sample.image_ids)


def compare_scores(
    scored: Sequence[tuple[FinishedRun, Values]], images: int, resamples: int, seed: int, splits: Sequence[str] = ()
) -> Comparison:
    """Compare runs with scores on the same draws. The runs must be comparable.

    Args:
        scored: runs with their scores in the data and in each resample.
        images: that were resampled.
        resamples: of the bootstrap.
        seed: of its draws; seeds of runs are drawn from it as well.
        splits: of ``SPLITS`` that were asked for.
    """
    runs = [run for run, _ in scored]
    arms = group_arms(runs)
    differences = _differences(arms, {run.folder: values for run, values in scored}, images, seed)
    notes = surroundings([run.record for run in runs])
    notes += [
        f'no split by {split}: all images are alike in it, or the test pipeline hides it'
        for split in splits
        if split not in {row.split for row in differences}
    ]
    sentences = [sentence(row, len(arms)) for row in differences if row.split == 'all']
    return Comparison(arms, differences, sentences, notes, resamples, seed)


def _require_comparable(runs: Sequence[FinishedRun], allow: Sequence[str]) -> None:
    folders = [run.folder.resolve() for run in runs]
    if len(runs) < 2:
        raise InputError('a comparison needs two runs and more')
    for one, other in itertools.combinations(range(len(runs)), 2):
        if folders[one] == folders[other]:
            raise InputError(f'{runs[other].folder}: given twice')
    for other in runs[1:]:
        keys = differing_keys([runs[0].record, other.record], allow)
        if not keys and set(runs[0].record['image_ids']) != set(other.record['image_ids']):
            keys.append('image_ids')
        if keys:
            raise InputError(
                f'{runs[0].folder} and {other.folder} cannot be compared, they differ in '
                f'{", ".join(keys)}; --allow KEY declares that a key is what is compared'
            )


def group_arms(runs: Sequence[FinishedRun]) -> list[Arm]:
    """Runs that differ only in their seed, as arms in the order given. Runs of one method alone are an arm each."""
    arms: dict[str, list[FinishedRun]] = {}
    for run in runs:
        arms.setdefault(arm_of(run.record), []).append(run)
    if len(arms) == 1:  # one method only: its runs against each other
        arms = {str(place): [run] for place, run in enumerate(runs)}
    groups = list(arms.values())
    names = unique([network_of(group[0].record) for group in groups], [group[0].folder for group in groups])
    return [Arm(name, group) for name, group in zip(names, groups)]


def _differences(arms: Sequence[Arm], values: dict[Path, Values], images: int, seed: int) -> list[Difference]:
    rows = []
    for key in values[arms[0].runs[0].folder]:
        metric, split, group = key
        for place, arm in enumerate(arms[1:], 1):
            pair = (arm, arms[0])
            methods = all(one.seeds >= SEEDS_FOR_METHODS for one in pair)
            rng = np.random.default_rng([seed, place]) if methods else None
            runs = [np.array([values[run.folder][key] for run in one.runs]) for one in pair]
            scores, reference = (mean_over_seeds(drawn, rng) for drawn in runs)
            gaps = scores - reference
            if split != 'all' and np.isnan(gaps[0]):  # no object of this size
                continue
            low, high = interval(gaps[1:])
            p = p_value(gaps[1:])
            rows.append(
                Difference(
                    metric,
                    split,
                    group,
                    arm.name,
                    arms[0].name,
                    float(scores[0]),
                    float(reference[0]),
                    float(gaps[0]),
                    low,
                    high,
                    p,
                    p,
                    images,
                    'methods' if methods else 'checkpoints',
                    min(one.seeds for one in pair),
                    *(drawn[:, 0].tolist() for drawn in runs),
                    *(one.seeds for one in pair),
                )
            )
    for family in {(row.metric, row.split) for row in rows}:
        members = [row for row in rows if (row.metric, row.split) == family]
        for row, corrected in zip(members, holm([row.p for row in members])):
            row.p_holm = corrected
    return rows


def to_record(comparison: Comparison) -> dict:
    """The record of a comparison, see :mod:`mmbackbones.evaluation.records`."""
    return plain_floats(
        dict(
            kind='compare',
            seed=comparison.seed,
            resamples=comparison.resamples,
            metrics={
                f'{row.metric}: {row.arm} - {row.reference}': row.difference
                for row in comparison.differences
                if row.split == 'all'
            },
            differences=[dataclasses.asdict(row) for row in comparison.differences],
            sentences=comparison.sentences,
            notes=comparison.notes,
            **facts_of_arms(comparison.arms),
            **environment(),
        )
    )


def facts_of_arms(arms: Sequence[Arm]) -> dict:
    """What the record of a comparison says of its runs; a fact that they don't share is None."""
    records = [run.record for arm in arms for run in arm.runs]
    shared = {
        key: records[0][key] if all(record[key] == records[0][key] for record in records) else None
        for key in ('recipe', 'data_fingerprint', 'precision', 'scan_backend')
    }
    about = [
        dict(
            name=arm.name,
            configs=sorted({run.record['config'] for run in arm.runs}),
            config_hashes=[run.record['config_hash'] for run in arm.runs],
            seeds=[run.record['seed'] for run in arm.runs],
            runs=[str(run.folder) for run in arm.runs],
        )
        for arm in arms
    ]
    return dict(config=None, config_hash=None, task=records[0]['task'], arms=about, **shared)
