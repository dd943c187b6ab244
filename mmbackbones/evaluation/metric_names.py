"""Names of metrics for a reader, and which of them come first. Whatever a metric reports can be shown."""

import re
from collections.abc import Mapping

from mmengine.evaluator import BaseMetric

# Keys of mmdet's and mmseg's metrics, in the order in which they are shown.
LABELS = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'coco/AR@100': 'AR@100',
    'lvis/bbox_AP': 'LVIS box AP',
    'lvis/segm_AP': 'LVIS mask AP',
    'pascal_voc/mAP': 'VOC mAP',
    'cityscapes/mAP': 'Cityscapes mAP',
    'coco_panoptic/PQ': 'PQ',
    'mIoU': 'mIoU',
    'mDice': 'mDice',
    'mFscore': 'mFscore',
    'accuracy/top1': 'top-1',
    'accuracy/top5': 'top-5',
    'mBIoU': 'mBIoU',
    'mBIoU_thin': 'mBIoU thin',
}
# Metrics of these under a prefix that the config chooses have it behind their label: "box AP (night)".
PREFIXED = ('coco/bbox_mAP', 'coco/segm_mAP', 'coco/AR@100', 'mIoU', 'mDice', 'mFscore', 'mBIoU', 'mBIoU_thin')
FRACTIONS = ('coco/', 'lvis/', 'pascal_voc/', 'cityscapes/', 'openimages/')
OF_SEGMENTS = ('aAcc', 'mAcc', 'mIoU', 'mDice', 'mFscore', 'mPrecision', 'mRecall', 'mBIoU', 'mBIoU_thin')
PERCENTAGES = (*OF_SEGMENTS, 'PQ', 'SQ', 'RQ', 'top1', 'top5')
AP_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
AR_ITEMS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
IOU_METRICS = {'mIoU': ('mIoU', 'mAcc'), 'mDice': ('mDice', 'mAcc'), 'mFscore': ('mFscore', 'mPrecision', 'mRecall')}


def main_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics to show first: those of :data:`LABELS` by their labels; if there are none, all by their own keys."""
    order = list(LABELS.values())
    found = {label: metrics[key] for key in metrics if (label := _label(key))}
    shown = sorted(found, key=lambda label: (order.index(_split(label)[0]), label))
    return {label: found[label] for label in shown} or dict(metrics)


def key_of(label: str) -> str:
    """The key of a metric in a record, by its label or key."""
    base, prefix = _split(label)
    key = next((key for key, known in LABELS.items() if known == base), None)
    if key is None:
        return label
    return key if prefix is None else f'{prefix}/{key.rpartition("/")[2]}'


def format_metric(label: str, value: float) -> str:
    """``'0.826'`` for a fraction, ``'99.11'`` for a percentage, four digits else.

    COCO's -1, which stands for a score of no objects, is ``'n/a'``.
    """
    if _is_fraction(label):
        return f'{value:.3f}' if value >= 0 else 'n/a'
    return f'{value:.2f}' if key_of(label).rpartition('/')[2] in PERCENTAGES else f'{value:.4g}'


def percent(label: str, value: float) -> float:
    """A fraction in percent; every other metric as it is."""
    return 100 * value if _is_fraction(label) else value


def reported_keys(metric: BaseMetric) -> list[str] | None:
    """Keys that a metric of mmdet or mmseg will report, in order; None for a type that is not known here.

    A detector that finds nothing reports fewer.
    """
    from mmdet.evaluation import CocoMetric
    from mmseg.evaluation import IoUMetric as SegIoUMetric

    from mmbackbones.evaluation.boundary import BoundaryIoUMetric
    from mmbackbones.evaluation.metrics import IoUMetric

    if isinstance(metric, BoundaryIoUMetric):
        return [f'{metric.prefix}/{name}' if metric.prefix else name for name in metric.reported]
    if type(metric) not in (CocoMetric, SegIoUMetric, IoUMetric):
        return None
    names = []
    wanted = [metric.metrics] if isinstance(metric.metrics, str) else metric.metrics
    if metric.format_only:
        wanted = []
    elif not isinstance(metric, CocoMetric):
        names = ['aAcc', *(name for kind in wanted for name in IOU_METRICS[kind])]
    else:
        for kind in wanted:
            if kind == 'proposal_fast':
                names += [f'AR@{number}' for number in metric.proposal_nums]
            elif kind == 'proposal':
                names += metric.metric_items or AR_ITEMS
            else:
                names += [f'{name}_precision' for name in metric.dataset_meta['classes'] if metric.classwise]
                names += [f'{kind}_{item}' for item in metric.metric_items or AP_ITEMS]
    return [f'{metric.prefix}/{name}' if metric.prefix else name for name in dict.fromkeys(names)]


def _label(key: str) -> str | None:
    if key in LABELS:
        return LABELS[key]
    prefix, _, name = key.rpartition('/')
    known = next((known for known in PREFIXED if known.rpartition('/')[2] == name), None)
    return f'{LABELS[known]} ({prefix})' if known and prefix else None


def _split(label: str) -> tuple[str, str | None]:
    found = re.fullmatch(r'(.+?) \((.+)\)', label)
    return (found[1], found[2]) if found else (label, None)


def _is_fraction(label: str) -> bool:
    base, _ = _split(label)
    return any(key_of(name).startswith(FRACTIONS) for name in (label, base))
