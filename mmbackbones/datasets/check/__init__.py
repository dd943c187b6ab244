"""The data check: faults of a data set are found before a run, all of them, cheaply, and once."""

from mmbackbones.datasets.check.run import (
    check_config,
    check_dataset,
    data_fingerprint,
    inspect_config,
    render,
    share_annotation_files,
    write_json,
)

__all__ = [
    'check_config',
    'check_dataset',
    'data_fingerprint',
    'inspect_config',
    'render',
    'share_annotation_files',
    'write_json',
]
