"""Look for faults in the data sets of a configuration before a run: all of them, cheaply, and once.

Known are mmdet's ``CocoDataset`` and mmseg's ``BaseSegDataset`` with every class that reads its files as these do. A
data set of another type is skipped with a note.
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
from mmbackbones.datasets.check.report import DatasetReport, Fault, distinct, require_clean, write_json
from mmbackbones.datasets.check.specs import Spec, datasets_below, spec_of, specs_of
from mmbackbones.errors import InputError

SPLITS = ('train', 'val', 'test')


def check_dataset(
    dataset: Mapping, full: bool = False, cache: bool = True, default_scope: str | None = None
) -> DatasetReport | None:
    """Check one data set.

    Args:
        dataset: Its configuration, as in ``train_dataloader.dataset``; no wrapper.
        full: Decode every image and every object's mask as well.
        cache: Take an earlier clean result for unchanged files, and keep this one.
        default_scope: Scope of a type named without one, such as ``mmdet``; None for the current one.

    Returns:
        All that was found, or None for a type that the check does not know.

    Raises:
        InputError: the framework refuses the configuration itself.
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
    """Check every data set of a configuration, each once; never raises for faults in the data.

    Data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset`` are found. The annotation file of a COCO
    evaluator must be the one of its data set, too.

    Returns:
        Split -> reports, one for each data set.
    """
    done: dict[Spec, DatasetReport] = {}
    reports: dict[str, list[DatasetReport]] = {}
    for split in splits:
        specs = specs_of(cfg, split)
        for spec in specs:
            if spec not in done:
                done[spec] = check_spec(spec, full, cache)
        reports[split] = [done[spec] for spec in specs]
        strays = _evaluator_faults(cfg, split, specs)
        if strays:
            first = reports[split][0]
            reports[split][0] = dataclasses.replace(first, faults=first.faults + strays)
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

    With ``data_check=False`` in the configuration the search for faults is left out; ``data_check='full'`` is ``full``.
    ``data_check='drop'`` leaves what has a fault out of the training data: ``cfg`` then names the annotation files that
    remain. Faults of the data for validation and test stop the run all the same, as scores without some of the images
    compare with nobody's.

    Args:
        cfg: A whole configuration.
        splits: Of its ``{split}_dataloader`` keys.
        full: See :func:`check_dataset`.
        cache: See :func:`check_dataset`.
        json_file: Where to write all reports if there is a fault.
        drop_dir: Folder for the annotation files that remain, ``data_kept_0.json`` and so on, and for
            ``data_dropped.json``, which lists what was left out and why.

    Returns:
        Split -> fingerprint, empty where no data set of the split is known.

    Raises:
        InputError: one line that names the first file at fault and the number of others.
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
    for report in found:
        if report.warnings and not report.cached:
            print_log(
                f'Data check: {report.name} has {len(report.warnings)} flaws that do not stop a run; the first: '
                f'{report.warnings[0]}',
                logger='current',
            )
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
