"""mmseg's IoU metric, which also keeps what a later paired comparison needs: the areas of every image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmseg.evaluation import IoUMetric as SegIoUMetric
from PIL import Image

from mmbackbones.registry import METRICS

AREAS = ('intersect', 'union', 'prediction', 'label')


@METRICS.register_module()
class IoUMetric(SegIoUMetric):
    """mIoU over the data set; all arguments are mmseg's.

    With ``output_dir`` it writes mmseg's index PNGs (label + 1 if the zero label is reduced) to ``masks/NAME.png`` and,
    unless ``format_only``, the file ``areas.npz``. This file has ``image_ids`` [N] (the names) and, in pixels,
    ``intersect``, ``union``, ``prediction`` and ``label``, each int64 [N, classes].

    Attributes:
        names (Mapping[str, str]): name of each image by its path. An image without one is named by its stem; stems of
            several folders may repeat, so whoever knows all images gives the names.
    """

    def __init__(self, *args: object, output_dir: str | None = None, **kwargs: object):
        super().__init__(*args, output_dir=None, **kwargs)  # mmseg names masks by their stems alone
        self.folder = Path(output_dir) if output_dir else None
        self.names: Mapping[str, str] = {}

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        start = len(self.results)
        super().process(data_batch, data_samples)
        names = [self.names.get(sample['img_path'], Path(sample['img_path']).stem) for sample in data_samples]
        self.results[start:] = [(*areas, name) for areas, name in zip(self.results[start:], names)]
        if self.folder:
            for sample, name in zip(data_samples, names):
                self._write(sample, self.folder / 'masks' / f'{name}.png')

    def _write(self, sample: dict, path: Path) -> None:
        reduced = bool(sample.get('reduce_zero_label', False))
        found: torch.Tensor = sample['pred_sem_seg']['data']
        mask = found.reshape(found.shape[-2:]) + reduced
        wide = len(self.dataset_meta['classes']) + reduced > 256
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.cpu().numpy().astype(np.uint16 if wide else np.uint8)).save(path)

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.format_only:
            return {}
        if self.folder and is_main_process():
            columns = list(zip(*results))
            counted: dict[str, Any] = {name: np.stack(column).astype(np.int64) for name, column in zip(AREAS, columns)}
            np.savez_compressed(self.folder / 'areas.npz', image_ids=np.array(columns[-1]), **counted)
        return super().compute_metrics([areas[:-1] for areas in results])
