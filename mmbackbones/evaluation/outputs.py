"""What a test leaves on disk, complete or not at all: predictions, and beside them the record of what made them.

A folder holds ``run.json`` (the record). For detectors it also holds ``predictions.bbox.json`` and, if they predict
masks, ``predictions.segm.json`` (COCO results, masks as RLE); for segmentors, ``masks/**/*.png`` (index masks) and
``areas.npz`` (see :class:`mmbackbones.evaluation.metrics.IoUMetric`). No file of ours is a pickle. Which of them there
are depends on the evaluators.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.registry import METRICS

from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend
from mmbackbones.ops.selective_scan.dispatch import log_once

RECORD = 'run.json'
TASKS = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}  # by the framework of the model


def task_of(cfg: Config) -> str:
    """``'detection'``, ``'segmentation'`` or ``'classification'``, by the framework of the model, else by its heads.

    Raises:
        InputError: the model is of no such task.
    """
    model = cfg.model.get('module', cfg.model)
    kind = model.get('type')
    package = kind.__module__ if isinstance(kind, type) else str(kind)
    for scope in (package.partition('.')[0], cfg.get('default_scope')):
        if scope in TASKS:
            return TASKS[scope]
    if 'decode_head' in model:
        return 'segmentation'
    if any(head in model for head in ('roi_head', 'rpn_head', 'bbox_head', 'mask_head', 'panoptic_head')):
        return 'detection'
    raise InputError(
        f'model.type={kind}: no detector of mmdet, segmentor of mmseg or classifier of mmpretrain '
        f'(default_scope={cfg.get("default_scope")!r})'
    )


def dense_task_of(cfg: Config) -> str:
    """:func:`task_of` for what reads maps of whole images.

    Raises:
        InputError: the model is a classifier, or of no known task.
    """
    task = task_of(cfg)
    if task == 'classification':
        raise InputError(f'{cfg.filename or "this config"}: a classifier; expected a detector or a segmentor')
    return task


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
        self.silent: list[str] = []  # evaluators that keep no predictions
        if not replace and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f'--out {path}: exists and is not empty; nothing was overwritten')
        if is_main_process():
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        barrier()

    def attach(self, evaluator: dict | list, default_scope: str | None = None) -> list[str]:
        """Make the configured metrics write into this folder, in place.

        mmseg's own IoUMetric is replaced by :class:`mmbackbones.evaluation.metrics.IoUMetric`, which computes the same
        and keeps the areas of every image. Metrics of other types keep what they keep, where they keep it.

        Args:
            evaluator: one or several configurations of metrics.
            default_scope: scope of a type without one, such as ``mmdet``.

        Returns:
            list[str]: one sentence per place of the configuration that this folder replaces.
        """
        from mmdet.evaluation import CocoMetric
        from mmseg.evaluation import IoUMetric as SegIoUMetric

        from mmbackbones.evaluation.metrics import IoUMetric

        replaced = []
        for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
            cls = _class_of(metric['type'], default_scope)
            if cls is SegIoUMetric:
                metric['type'], cls = 'mmbackbones.IoUMetric', IoUMetric
            if issubclass(cls, CocoMetric):
                key, place = 'outfile_prefix', self.partial / 'predictions'
            elif issubclass(cls, IoUMetric):
                key, place = 'output_dir', self.partial
            elif issubclass(cls, SegIoUMetric):
                key, place = 'output_dir', self.partial / 'masks'
            else:
                self.silent.append(cls.__name__)
                continue
            if metric.get(key):
                replaced.append(f'{cls.__name__}.{key}={metric[key]}: its files go to {self.path} instead')
            metric[key] = str(place)
        return replaced

    def discard(self) -> None:
        """Remove what is not complete, before anything of worth is in it."""
        if is_main_process():
            shutil.rmtree(self.partial, ignore_errors=True)

    def commit(self, record: dict | None) -> None:
        """Add the record, if any, and rename the folder to its final name. Only now an earlier folder is removed."""
        barrier()
        if is_main_process():
            if record is not None:
                (self.partial / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + '\n')
            old = self.path.with_name(f'.{self.path.name}.old')
            shutil.rmtree(old, ignore_errors=True)
            if self.path.exists():
                self.path.rename(old)
            self.partial.rename(self.path)
            shutil.rmtree(old, ignore_errors=True)
        barrier()

    def summary(self) -> str:
        """What the complete folder holds, for the user."""
        if any(path.is_file() and path != self.path / RECORD for path in self.path.rglob('*')):
            return f'predictions and record in {self.path}'
        why = f'{", ".join(self.silent)} keeps none there' if self.silent else 'the evaluators kept none'
        return f'record in {self.path}, without predictions: {why}'


def _class_of(kind: str | type, default_scope: str | None) -> type:
    if isinstance(kind, type):
        return kind
    with METRICS.switch_scope_and_registry(default_scope) as registry:
        cls = registry.get(kind)
    if cls is None:
        raise InputError(f'test_evaluator.type={kind} is not in the registry of metrics')
    return cls


def image_ids(dataset: torch.utils.data.Dataset) -> list:
    """Ids of the images tested: those of the data set, or file names without suffix.

    Where file names of several folders repeat, the names are relative to the folder that holds all images.
    """
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    if all('img_id' in info for info in infos):
        return [info['img_id'] for info in infos]
    names = names_of_images([info['img_path'] for info in infos])
    return [names[info['img_path']] for info in infos]


def name_images(metrics: Sequence, dataset: torch.utils.data.Dataset) -> None:
    """Tell the metrics that keep a file per image how the images are named; see :func:`image_ids`."""
    from mmbackbones.evaluation.metrics import IoUMetric

    keepers = [metric for metric in metrics if isinstance(metric, IoUMetric) and metric.folder]
    if keepers:
        names = names_of_images([dataset.get_data_info(index)['img_path'] for index in range(len(dataset))])
    for metric in keepers:
        metric.names = names


def names_of_images(paths: list[str]) -> dict[str, str]:
    """A name of its own for each path: the stem, if no two are equal, else the relative path, with suffix if need be.

    >>> names_of_images(['a/b/000.jpg', 'a/c/000.jpg'])
    {'a/b/000.jpg': 'b/000', 'a/c/000.jpg': 'c/000'}
    """
    distinct = list(dict.fromkeys(paths))
    stems = [Path(path).stem for path in distinct]
    if len(set(stems)) == len(distinct):
        return dict(zip(distinct, stems))
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in distinct])
    below = [Path(os.path.relpath(os.path.abspath(path), top)) for path in distinct]
    names = [path.with_suffix('').as_posix() for path in below]
    if len(set(names)) < len(names):
        names = [path.as_posix() for path in below]
    return dict(zip(distinct, names))


def scan_backend() -> str | None:
    """Backend of the selective scans that this process has run; None if it ran none."""
    if not log_once.cache_info().currsize:
        return None
    return selective_scan_backend('cuda' if torch.cuda.is_available() else 'cpu').name


def plain(metrics: Mapping) -> dict[str, float]:
    """The numbers among metrics as plain floats; nested dicts are flattened with a slash.

    What is no finite number (an array per class, text, None, NaN of a class that never occurs) is left out, because
    JSON has no such number; see :func:`left_out`.
    """
    return {name: value for name, value in _numbers(metrics).items() if value is not None}


def left_out(metrics: Mapping) -> list[str]:
    """Names of the metrics that :func:`plain` leaves out."""
    return sorted(name for name, value in _numbers(metrics).items() if value is None)


def _numbers(metrics: Mapping, prefix: str = '') -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f'{prefix}{name}/')
            continue
        if isinstance(value, torch.Tensor | np.ndarray) and math.prod(value.shape) == 1:
            value = value.item()
        number = float(value) if isinstance(value, int | float | np.number) else math.nan
        found[f'{prefix}{name}'] = number if math.isfinite(number) else None
    return found
