"""What a run leaves and how it is compared: records, output folders, metrics, statistics."""

from mmbackbones.evaluation.metrics import IoUMetric

__all__ = ['IoUMetric']
