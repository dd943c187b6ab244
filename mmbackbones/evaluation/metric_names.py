"""Names of metrics for a reader, and which of them come first. Whatever a metric reports can be shown."""

from collections.abc import Mapping

# Keys of mmdet's and mmseg's metrics for this suite's two tasks, in the order in which they are shown.
LABELS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU'}
FRACTIONS = ('coco/',)  # metrics under these prefixes are fractions; mmseg's are percentages


def main_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics to show first: those of :data:`LABELS` by their labels; if there are none, all by their own keys."""
    found = {label: metrics[key] for key, label in LABELS.items() if key in metrics}
    return found or dict(metrics)


def key_of(label: str) -> str:
    """The key of a metric in a record, by its label or key."""
    return next((key for key, known in LABELS.items() if known == label), label)


def format_metric(label: str, value: float) -> str:
    """``'0.826'`` for a fraction, ``'99.11'`` otherwise."""
    return f'{value:.3f}' if key_of(label).startswith(FRACTIONS) else f'{value:.2f}'
