"""Find all faults in the data sets of a configuration before a run.

The check supports mmdet's ``CocoDataset``, mmseg's ``BaseSegDataset``, mmpretrain's ``CustomDataset`` and every class
that reads its files as these do.
A data set of another type is skipped with a note.
"""

import dataclasses
import filecmp
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log

from mmbackbones.datasets.check.cache import check_spec, fingerprint_of
from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.drop import drop_faulty
from mmbackbones.datasets.check.labels import label_findings
from mmbackbones.datasets.check.report import DatasetReport, Fault, announce, distinct, require_clean, write_json
from mmbackbones.datasets.check.segmentation import SegmentationSpec
from mmbackbones.datasets.check.specs import Spec, datasets_below, places_of, spec_of, specs_of
from mmbackbones.datasets.choices import SPLITS as SPLITS
from mmbackbones.errors import InputError


def check_dataset(
    dataset: Mapping, full: bool = False, cache: bool = True, default_scope: str | None = None
) -> DatasetReport | None:
    """Check one data set.

    Args:
        dataset: Configuration of the data set, as in ``train_dataloader.dataset``; not of a wrapper.
        full: Also decode every image and the mask of every object.
        cache: Use an earlier clean result for unchanged files, and store this one.
        default_scope: Scope of a type without one, such as ``mmdet``; None for the current scope.

    Returns:
        The report, or None for an unsupported type.

    Raises:
        InputError: the framework refuses the configuration.
    """
    spec = spec_of(dataset, default_scope)
    return None if spec is None else check_spec(spec, full, cache)


def data_fingerprint(dataset: Mapping, cache: bool = True, default_scope: str | None = None) -> str:
    """The ``fingerprint`` that :func:`check_dataset` reports, without looking for faults; empty if there is none."""
    spec = spec_of(dataset, default_scope)
    return '' if spec is None else fingerprint_of(spec, cache)


def inspect_config(
    cfg: Mapping, splits: Sequence[str] = SPLITS, full: bool = False, cache: bool = True
) -> dict[str, list[DatasetReport]]:
    """Check every data set of a configuration once. Faults in the data raise no error.

    This includes data sets in wrappers such as ``RepeatDataset`` and ``ConcatDataset``. It is also a fault if a COCO
    evaluator has another annotation file than its data set, or if index masks do not fit the pipelines, heads and
    metrics that use them.

    Returns:
        Split -> reports, one for each data set.
    """
    done: dict[Spec, DatasetReport] = {}
    reports: dict[str, list[DatasetReport]] = {}
    places = {split: places_of(cfg, split) for split in splits}
    for split in splits:
        specs = [place.spec for place in places[split] if place.spec is not None]
        for spec in specs:
            if spec not in done:
                done[spec] = check_spec(spec, full, cache)
        reports[split] = [done[spec] for spec in specs]
        strays = _evaluator_faults(cfg, split, specs)
        if strays:
            first = reports[split][0]
            reports[split][0] = dataclasses.replace(first, faults=first.faults + strays)
        masks = [index for index, spec in enumerate(specs) if isinstance(spec, SegmentationSpec)]
        if masks:
            more = label_findings(cfg, split, places, done)
            reports[split][masks[0]] = reports[split][masks[0]].with_more(more)
    return reports


def check_config(
    cfg: Mapping,
    splits: Sequence[str] = SPLITS,
    full: bool = False,
    cache: bool = True,
    json_file: str | Path | None = None,
    drop_dir: str | Path | None = None,
) -> dict[str, str]:
    """Stop a run whose data has faults, and identify the data.

    ``data_check=False`` in the configuration turns the search for faults off. ``data_check='full'`` sets ``full``.
    ``data_check='drop'`` leaves faulty items out of the training data; ``cfg`` then names new annotation files. Faults
    of the data for validation and test still stop the run, because scores without some of the images cannot be
    compared.

    Args:
        cfg: A whole configuration.
        splits: Names of splits, as in its ``{split}_dataloader`` keys.
        full: See :func:`check_dataset`.
        cache: See :func:`check_dataset`.
        json_file: File for all reports, written if there is a fault.
        drop_dir: Folder for the new annotation files, ``data_kept_0.json`` and so on, and for ``data_dropped.json``,
            which lists the items left out with reasons.

    Returns:
        Split -> fingerprint; empty if no data set of the split is supported.

    Raises:
        InputError: one line that names the first faulty file and the number of others.
    """
    wanted = cfg.get('data_check', True)
    if wanted not in (True, False, 'full', 'drop'):
        raise InputError(f'data_check={wanted!r}: True, False, "full" or "drop" was expected')
    if wanted is False:
        print_log('data_check=False: the data is not checked', logger='current')
        return {split: _join([fingerprint_of(spec, cache) for spec in specs_of(cfg, split)]) for split in splits}
    if wanted == 'drop' and 'train' in splits:
        if drop_dir is None:
            raise InputError('data_check="drop": for trainings only')
        drop_faulty(cfg, Path(drop_dir), cache)
    reports = inspect_config(cfg, splits, full or wanted == 'full', cache)
    found = [report for report, _ in distinct(reports)]
    if json_file and any(report.faults for report in found):
        write_json(reports, json_file)
    require_clean(found, where=f'all of them are in {json_file}' if json_file else None)
    announce(found)
    return {split: _join([report.fingerprint for report in group]) for split, group in reports.items()}


def share_annotation_files(cfg: Mapping) -> None:
    """Give every process the annotation files that ``data_check='drop'`` has put into the first one's ``cfg``."""
    if cfg.get('data_check') != 'drop':
        return
    leaves = list(datasets_below(cfg.get('train_dataloader')))
    files = [leaf.get('ann_file', '') for leaf in leaves]
    broadcast_object_list(files)
    for leaf, file in zip(leaves, files):
        leaf['ann_file'] = file


def _join(fingerprints: list[str]) -> str:
    if len(fingerprints) == 1 or not all(fingerprints):
        return fingerprints[0] if len(fingerprints) == 1 else ''
    return hashlib.sha256(' '.join(fingerprints).encode()).hexdigest()[:16] if fingerprints else ''


def _evaluator_faults(cfg: Mapping, split: str, specs: list[Spec]) -> list[Fault]:
    evaluators = cfg.get(f'{split}_evaluator') or []
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    own = [spec.ann_file for spec in specs if isinstance(spec, CocoSpec)]
    faults = []
    for path in [evaluator.get('ann_file') for evaluator in evaluators if isinstance(evaluator, Mapping)]:
        if not path or not own or os.path.abspath(path) in map(os.path.abspath, own):
            continue
        if not os.path.isfile(path):
            faults.append(Fault(path, 'evaluator', f'no such annotation file; it is {split}_evaluator.ann_file'))
        elif not any(os.path.isfile(file) and filecmp.cmp(path, file, shallow=False) for file in own):
            faults.append(
                Fault(path, 'evaluator', f'is {split}_evaluator.ann_file, but the {split} data set reads {own[0]}')
            )
    return faults
