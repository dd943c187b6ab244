"""What a test leaves on disk, complete or not at all: predictions, and beside them the record of what made them.

A folder holds ``run.json`` (the record). For detectors it also holds ``predictions.bbox.json`` and
``predictions.segm.json`` (COCO results, masks as RLE); for segmentors, ``masks/*.png`` (index masks) and ``areas.npz``
(see :class:`mmbackbones.evaluation.metrics.IoUMetric`). No file is a pickle.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process

from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend
from mmbackbones.ops.selective_scan.dispatch import log_once

RECORD = 'run.json'


def task_of(cfg: Config) -> str:
    """``'detection'`` or ``'segmentation'``, by the model's heads."""
    model = cfg.model.get('module', cfg.model)
    if 'roi_head' in model:
        return 'detection'
    if 'decode_head' in model:
        return 'segmentation'
    raise InputError(f'model.type={model.get("type")}: neither a detector (roi_head) nor a segmentor (decode_head)')


class OutputFolder:
    """A folder that appears under its name only when it is complete.

    Args:
        path: folder to make.
        replace (bool): whether the complete folder may replace an earlier one.

    Raises:
        InputError: the folder exists, is not empty and may not be replaced.
    """

    def __init__(self, path: str | Path, replace: bool = False):
        self.path = Path(path).absolute()
        self.partial = self.path.with_name(f'.{self.path.name}.partial')
        if not replace and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f'--out {path}: exists and is not empty; nothing was overwritten')
        if is_main_process():
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        barrier()

    def attach(self, evaluator: dict | list) -> None:
        """Make the configured metrics write into this folder."""
        for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
            if metric['type'] == 'CocoMetric':
                metric['outfile_prefix'] = str(self.partial / 'predictions')
            elif metric['type'] == 'mmbackbones.IoUMetric':
                metric['output_dir'] = str(self.partial)

    def commit(self, record: dict) -> None:
        """Add the record and rename the folder to its final name. Only now an earlier folder is removed."""
        barrier()
        if is_main_process():
            (self.partial / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + '\n')
            old = self.path.with_name(f'.{self.path.name}.old')
            shutil.rmtree(old, ignore_errors=True)
            if self.path.exists():
                self.path.rename(old)
            self.partial.rename(self.path)
            shutil.rmtree(old, ignore_errors=True)
        barrier()


def image_ids(dataset: torch.utils.data.Dataset) -> list:
    """Ids of the images tested: COCO ids, or file stems."""
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [info['img_id'] if 'img_id' in info else Path(info['img_path']).stem for info in infos]


def scan_backend() -> str | None:
    """Backend of the selective scans that this process has run; None if it ran none."""
    if not log_once.cache_info().currsize:
        return None
    return selective_scan_backend('cuda' if torch.cuda.is_available() else 'cpu').name


def plain(metrics: dict) -> dict[str, float]:
    """Metrics as plain floats, so that JSON holds no NumPy scalars."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float | np.number)}
