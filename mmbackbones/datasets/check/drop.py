"""Training data without its faults: what cannot be used is left out by name, never in silence."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.files import Fault, write_atomically
from mmbackbones.datasets.check.segmentation import SegmentationSpec

Spec = CocoSpec | SegmentationSpec


def without_faults(
    spec: Spec, ann_file: Path, check: Callable[[Spec], list[Fault]]
) -> tuple[Spec, list[Fault], Counter]:
    """Write an annotation file, or a list of names, that lacks every item with a fault.

    What hangs on a left out image goes as well. A data set with a fault that leaving items out does not mend
    (categories that do not fit, a missing folder) stays as it is.

    Args:
        spec: The data set; nothing of it is changed.
        ann_file: Where to write; untouched if nothing is left out.
        check: Finds the faults of a data set.

    Returns:
        tuple: the data set to use; what was left out and why, in order; how many items of each kind.
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
        write_atomically(ann_file, spec.without(items).decode())
        spec = dataclasses.replace(spec, ann_file=os.path.abspath(ann_file))
