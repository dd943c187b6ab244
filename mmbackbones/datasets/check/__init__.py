"""The data check: find all faults of a data set before a run, with few file reads, and once per data set.

``specs.py`` takes the data sets out of a configuration. ``coco.py`` and ``segmentation.py`` check one kind each, with
``coco_records.py`` for single records and ``files.py`` for single files. ``masks.py`` reads index masks as the pipeline
does, and ``labels.py`` holds their labels against pipelines, heads and metrics. ``cache.py`` stores clean results,
``drop.py`` leaves faulty items out of the training, ``report.py`` shows the faults. ``run.py`` calls all of them.
"""

from mmbackbones.datasets.check.report import render, write_json
from mmbackbones.datasets.check.run import (
    SPLITS,
    check_config,
    check_dataset,
    data_fingerprint,
    inspect_config,
    share_annotation_files,
)

__all__ = [
    'SPLITS',
    'check_config',
    'check_dataset',
    'data_fingerprint',
    'inspect_config',
    'render',
    'share_annotation_files',
    'write_json',
]
