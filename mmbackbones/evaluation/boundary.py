"""Boundary IoU, a metric beside mIoU for thin structures and outlines.

Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021 (arXiv 2103.16562), equation 2.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from prettytable import PrettyTable

from mmbackbones.errors import InputError
from mmbackbones.registry import METRICS

NOTHING = -1  # label of ignored pixels and of what lies around an image
COUNTS = ('intersect', 'prediction', 'label')


def boundary_areas(
    prediction: np.ndarray, label: np.ndarray, classes: int, distance: int, ignore_index: int = 255
) -> np.ndarray:
    """Pixels of each class in the boundary regions of an image.

    The boundary region of a class is its pixels that have a pixel of no or another class within ``distance``, counted
    in steps to the eight neighbours; the edge of the image is a contour, too (as in the authors' erosion by 3x3
    squares). Ignored pixels lie outside the image in both masks.

    A pixel is in the region of its class if and only if its window of 2 distance + 1 pixels holds two labels. So one
    minimum and one maximum over windows find the regions of all classes at once.

    Args:
        prediction (int [H, W]): classes from 0.
        label (int [H, W]): classes from 0, or ``ignore_index``.
        classes: number of classes.
        distance: pixels, at least 1.
        ignore_index: label of pixels that do not count.

    Returns:
        np.ndarray: int64 [3, classes] by :data:`COUNTS`: pixels in both regions, in that of the prediction, in that of
        the label.
    """
    ignored = label == ignore_index
    masks = [np.where(ignored, NOTHING, mask).astype(np.int16) for mask in (prediction, label)]
    near = [_near_contour(mask, distance) & ~ignored for mask in masks]
    both = near[0] & near[1] & (masks[0] == masks[1])
    regions = ((both, masks[0]), (near[0], masks[0]), (near[1], masks[1]))
    return np.stack([np.bincount(mask[region], minlength=classes)[:classes] for region, mask in regions])


def _near_contour(mask: np.ndarray, distance: int) -> np.ndarray:
    """Whether the window around a pixel holds two labels; bool [H, W]."""
    framed = np.pad(mask, 1, constant_values=NOTHING)  # more of the surroundings would hold nothing new
    window = np.ones((2 * distance + 1,) * 2, np.uint8)
    low, high = (function(framed, window, borderType=cv2.BORDER_REPLICATE) for function in (cv2.erode, cv2.dilate))
    return (low != high)[1:-1, 1:-1]


@METRICS.register_module()
class BoundaryIoUMetric(BaseMetric):
    """Boundary IoU of each class over the data set, and its mean: ``mBIoU``, in percent.

    The pixels of a class in both boundary regions, over those in either, are summed over all images, as mIoU sums
    areas. A class that is nowhere has no score. The log has a table of the classes.

    Args:
        dilation_ratio: the distance from the contour in parts of the image's diagonal. The authors take 0.02, and 0.005
            for Cityscapes.
        thin: names of classes whose mean is reported, too, as ``mBIoU_thin``.
        ignore_index: label of pixels that do not count.
        format_only: compute nothing, as for a test set without labels.
        collect_device: as in mmengine.
        prefix: as in mmengine.

    Raises:
        InputError: the ratio is not above 0 and below 1, or a name in ``thin`` is no class.
    """

    def __init__(
        self,
        dilation_ratio: float = 0.02,
        thin: Sequence[str] = (),
        ignore_index: int = 255,
        format_only: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not isinstance(dilation_ratio, int | float) or not 0 < dilation_ratio < 1:
            raise InputError(
                f'BoundaryIoUMetric.dilation_ratio={dilation_ratio!r}: expected a number above 0 and below 1'
            )
        if isinstance(thin, str) or not isinstance(thin, Sequence):
            raise InputError(f'BoundaryIoUMetric.thin={thin!r}: expected a list of names of classes')
        self.dilation_ratio, self.thin = dilation_ratio, tuple(thin)
        self.ignore_index, self.format_only = ignore_index, format_only

    @property
    def reported(self) -> list[str]:
        """Names of what it reports."""
        return [] if self.format_only else ['mBIoU', *(['mBIoU_thin'] if self.thin else [])]

    def require_classes(self, classes: Sequence[str]) -> None:
        """Refuse names in ``thin`` that are no classes of the data set.

        Raises:
            InputError: names the first one.
        """
        unknown = [name for name in self.thin if name not in classes]
        if unknown:
            raise InputError(
                f'BoundaryIoUMetric.thin: {unknown[0]!r} is no class of the data set; it has {", ".join(classes)}'
            )

    def distance(self, height: int, width: int) -> int:
        """Pixels from the contour that count for an image."""
        return max(1, round(self.dilation_ratio * math.hypot(height, width)))

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        if self.format_only:
            return
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            prediction, label = (sample[key]['data'].squeeze(0).cpu().numpy() for key in ('pred_sem_seg', 'gt_sem_seg'))
            distance = self.distance(*label.shape)
            self.results.append(boundary_areas(prediction, label, classes, distance, self.ignore_index))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        if self.format_only:
            return {}
        names = self.dataset_meta['classes']
        self.require_classes(names)
        intersect, prediction, label = np.sum(results, axis=0).astype(float)
        union = prediction + label - intersect
        scores = 100 * np.divide(intersect, union, out=np.full(len(names), np.nan), where=union > 0)
        table = PrettyTable()
        table.add_column('Class', list(names))
        table.add_column('BIoU', [f'{score:.2f}' for score in scores])
        print_log(f'Boundary IoU of each class:\n{table}', logger='current')
        thin = scores[[names.index(name) for name in self.thin]]
        return {
            name: round(float(np.nanmean(values)), 2) if np.isfinite(values).any() else math.nan
            for name, values in zip(self.reported, (scores, thin))
        }
