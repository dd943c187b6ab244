"""Which painted predictions a report shows: those of the images with the most objects, the same ones for every run."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import load_annotations
from mmbackbones.evaluation.predictions import FinishedRun, annotation_file


def fullest_first(paths: Sequence[Path], runs: Sequence[FinishedRun]) -> list[Path]:
    """Order pictures by the number of objects (of classes, in segmentation) of their images, then by name.

    Args:
        paths: painted predictions; their names contain the names of the images.
        runs: runs of their work dir. If none of them knows the objects, the order is that of the names.
    """
    objects: dict[str, int] = {}
    for run in runs:
        objects = objects or _objects(run)
    names = sorted(objects, key=len, reverse=True)

    def count(path: Path) -> int:
        name = path.stem if path.stem in objects else next((name for name in names if name in path.stem), None)
        return objects.get(name, 0) if name else 0

    return sorted(paths, key=lambda path: (-count(path), path.name))


def _objects(run: FinishedRun) -> dict[str, int]:
    """Number of objects or classes by the stem of the image's file."""
    if run.record['task'] == 'detection':
        try:
            truth = load_annotations(annotation_file(run))
        except InputError:  # moved since; the report says so where it scores the run
            return {}
        counts = Counter(each['image_id'] for each in truth['annotations'] if not each.get('iscrowd'))
        return {Path(image['file_name']).stem: counts[image['id']] for image in truth['images']}
    areas = run.folder / 'areas.npz'
    if not areas.is_file():
        return {}
    with np.load(areas) as saved:
        return dict(zip(map(str, saved['image_ids']), (saved['label'] > 0).sum(1).tolist()))
