"""Training data without faulty items. Each item that is left out is named."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mmengine.logging import print_log

from mmbackbones.checkpoints.atomic import write_shared
from mmbackbones.datasets.check.cache import check_spec
from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.report import DatasetReport, Fault, announce
from mmbackbones.datasets.check.specs import Spec, datasets_below, spec_of

DROPPED = 'data_dropped.json'


def drop_faulty(cfg: Mapping, folder: Path, cache: bool) -> None:
    """Leave faulty items out of the training data of a configuration.

    Images are decoded, so that every unusable item is left out. ``data_dropped.json`` lists the items.

    Args:
        cfg: The configuration; its training data sets get new annotation files.
        folder: Folder for these files and the list.
        cache: See :func:`mmbackbones.datasets.check.check_dataset`.
    """
    everything = {}
    for number, leaf in enumerate(datasets_below(cfg.get('train_dataloader'))):
        spec = spec_of(leaf, cfg.get('default_scope'))
        if spec is None:
            continue
        suffix = 'json' if isinstance(spec, CocoSpec) else 'txt'
        reports: list[DatasetReport] = []

        def check(spec: Spec, reports: list[DatasetReport] = reports) -> list[Fault]:
            reports.append(check_spec(spec, True, cache))
            return reports[-1].faults

        rest, dropped, counts = _without_faults(spec, folder / f'data_kept_{number}.{suffix}', check)
        if not dropped:
            continue
        # The list of what is kept names no file that was left out before, such as one with another suffix.
        known = {*reports[-1].warnings, *dropped}
        announce([replace(reports[0], warnings=[one for one in reports[0].warnings if one not in known], notes=[])])
        leaf['ann_file'] = rest.ann_file
        everything[str(spec)] = dict(
            kept=rest.ann_file,
            counts=counts,
            dropped=[dict(file=fault.file, kind=fault.kind, detail=fault.detail) for fault in dropped],
        )
        what = ', '.join(f'{kind}: {count}' for kind, count in sorted(counts.items()))
        print_log(
            f'data_check="drop": {spec}: left out of the training ({what}), all in {folder / DROPPED}; '
            f'the first: {dropped[0]}',
            logger='current',
            level=logging.WARNING,
        )
    write_shared(folder / DROPPED, json.dumps(everything, indent=1).encode())


def _without_faults(
    spec: Spec, ann_file: Path, check: Callable[[Spec], list[Fault]]
) -> tuple[Spec, list[Fault], Counter]:
    """Write an annotation file, or a list of names, without the faulty items.

    The objects of an image that is left out are left out, too. A data set stays as it is if leaving items out does not
    remove its fault (categories that do not fit, a missing folder).

    Args:
        spec: The data set; it is not changed.
        ann_file: File to write; not written if nothing is left out.
        check: Function that finds the faults of a data set.

    Returns:
        tuple: the data set to use; the items left out with reasons, in order; the number of items of each kind.
    """
    dropped: list[Fault] = []
    counts: Counter = Counter()
    while True:
        faults = check(spec)
        items = {fault.item for fault in faults}
        if not items or None in items:
            return spec, dropped, counts
        dropped += faults
        counts.update(kind for kind, _ in items)
        write_shared(ann_file, spec.without(items))
        spec = replace(spec, ann_file=os.path.abspath(ann_file))
