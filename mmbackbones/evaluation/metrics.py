"""mmseg's IoU metric, which also keeps what a later paired comparison needs: the areas of every image."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmseg.evaluation import IoUMetric as SegIoUMetric

from mmbackbones.registry import METRICS

AREAS = ('intersect', 'union', 'prediction', 'label')


@METRICS.register_module()
class IoUMetric(SegIoUMetric):
    """mIoU over the data set; all arguments are mmseg's.

    With ``output_dir`` it writes mmseg's index PNGs (label + 1 if the zero label is reduced) and the file
    ``areas.npz``. This file has ``image_ids`` [N] (file stems) and, in pixels, ``intersect``, ``union``, ``prediction``
    and ``label``, each int64 [N, classes].
    """

    def __init__(self, *args: object, output_dir: str | None = None, **kwargs: object):
        super().__init__(*args, output_dir=output_dir and str(Path(output_dir, 'masks')), **kwargs)
        self._areas_file = Path(output_dir, 'areas.npz') if output_dir else None
        if self.output_dir:
            Path(self.output_dir).mkdir(parents=True, exist_ok=True)  # mmseg's first process alone makes it, too late

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        start = len(self.results)
        super().process(data_batch, data_samples)
        stems = [Path(sample['img_path']).stem for sample in data_samples]
        self.results[start:] = [(*areas, stem) for areas, stem in zip(self.results[start:], stems)]

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self._areas_file and is_main_process() and not self.format_only:
            columns = list(zip(*results))
            counted: dict[str, Any] = {name: np.stack(column).astype(np.int64) for name, column in zip(AREAS, columns)}
            np.savez_compressed(self._areas_file, image_ids=np.array(columns[-1]), **counted)
        return super().compute_metrics([areas[:-1] for areas in results])
