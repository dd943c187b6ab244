"""Checks of the evaluators before a run: what would otherwise fail at the first validation, or after the training."""

from collections.abc import Iterator, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmbackbones.checkpoints.random_state import get_random_state, set_random_state
from mmbackbones.engine.checks import require_class_count, require_same_classes
from mmbackbones.errors import InputError
from mmbackbones.evaluation.metric_names import AP_ITEMS, AR_ITEMS, IOU_METRICS, reported_keys

# What the frameworks read from every sample of a test, by key, and who writes it.
DETECTION_KEYS = {
    'img_id': "'img_id' in PackDetInputs.meta_keys",
    'ori_shape': "'ori_shape' in PackDetInputs.meta_keys",
    'img_shape': "'img_shape' in PackDetInputs.meta_keys",
    'scale_factor': "a Resize step and 'scale_factor' in PackDetInputs.meta_keys",
}


def require_runnable(runner: Runner) -> None:
    """Refuse what the frameworks accept, and what would fail at the first validation or after the training.

    The loops are built here in the order in which the runner builds them, so that no random number changes.

    Raises:
        InputError: classes of data sets or heads differ, or an evaluator cannot do its work.
    """
    splits = ('test', 'train', 'val') if runner.cfg.get('train_cfg') else ('test',)
    loops = {}
    for split in splits:
        if split != 'train' and runner.cfg.get(f'{split}_cfg'):
            _build_evaluator(runner, split)
        if (loop := getattr(runner, f'{split}_loop')) is not None:
            loops[split] = loop
    require_class_count(runner.model, loops['test'].dataloader.dataset)
    require_same_classes({split: loop.dataloader.dataset for split, loop in loops.items()})
    for split, loop in loops.items():
        if split != 'train' and isinstance(loop.evaluator, Evaluator):
            _require_metrics(split, loop.evaluator.metrics, loop.dataloader.dataset, runner.model)
    if 'val' in loops and isinstance(loops['val'].evaluator, Evaluator):
        _require_monitored(loops['val'].evaluator.metrics, runner.hooks)


def _build_evaluator(runner: Runner, split: str) -> None:
    name = f'_{split}_evaluator'
    try:
        setattr(runner, name, runner.build_evaluator(getattr(runner, name)))
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        reason = ' '.join(str(error.args[0] if error.args else '').split()) or type(error).__name__
        raise InputError(f'{split}_evaluator: {reason}') from error


def _require_metrics(split: str, metrics: Sequence[BaseMetric], dataset: Dataset, model: nn.Module) -> None:
    key = f'{split}_evaluator'
    for metric in metrics:
        _require_known(key, metric)
        _require_place(key, metric)
        _require_masks(key, metric, model)
    _require_distinct(key, metrics)
    _require_sample(split, metrics, dataset)


def _require_monitored(metrics: Sequence[BaseMetric], hooks: Sequence[Hook]) -> None:
    """Refuse ``save_best`` and early stopping by a metric that the validation will not report."""
    reported = [reported_keys(metric) for metric in metrics]
    if None in reported:
        return  # not known before it reports them
    known = [key for keys in reported for key in keys or ()]
    for option, wanted in _monitored(hooks):
        if wanted not in known:
            raise InputError(
                f'{option}={wanted!r}: val_evaluator does not report this metric; '
                + (f'it reports {", ".join(known)}' if known else 'it reports none (format_only)')
            )


def _monitored(hooks: Sequence[Hook]) -> Iterator[tuple[str, str]]:
    for hook in hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            yield from (('save_best', name) for name in hook.key_indicators if name != 'auto')
        elif isinstance(hook, EarlyStoppingHook):
            yield 'EarlyStoppingHook.monitor', hook.monitor


def _require_known(key: str, metric: BaseMetric) -> None:
    from mmdet.evaluation import CocoMetric
    from mmseg.evaluation import IoUMetric

    if isinstance(metric, IoUMetric):
        option, wanted, known = 'iou_metrics', metric.metrics, tuple(IOU_METRICS)
    elif isinstance(metric, CocoMetric):
        option, wanted = 'metric_items', metric.metric_items or ()
        known = (*AP_ITEMS, *AR_ITEMS)
    else:
        return
    unknown = [name for name in ([wanted] if isinstance(wanted, str) else wanted) if name not in known]
    if unknown:
        raise InputError(f'{key}.{option}: {unknown[0]!r} is not known; known: {", ".join(known)}')


def _require_place(key: str, metric: BaseMetric) -> None:
    """``format_only`` computes no metric. Without a place for the predictions nothing at all would be left."""
    from mmseg.evaluation import IoUMetric

    if (
        isinstance(metric, IoUMetric)
        and metric.format_only
        and not (metric.output_dir or getattr(metric, 'folder', None))
    ):
        where = '--out DIR or ' if key == 'test_evaluator' else ''
        raise InputError(f'{key}.format_only=True: predictions have no place; give {where}{key}.output_dir')


def _require_masks(key: str, metric: BaseMetric, model: nn.Module) -> None:
    from mmdet.evaluation import CocoMetric

    if not isinstance(metric, CocoMetric) or 'segm' not in metric.metrics or metric.format_only:
        return
    parts = {part for name, _ in model.named_modules() for part in name.split('.')}
    if not any('mask' in part for part in parts):
        kind = type(getattr(model, 'module', model)).__name__
        raise InputError(f"{key}.metric: 'segm' needs masks, but {kind} has no mask head; set {key}.metric='bbox'")


def _require_distinct(key: str, metrics: Sequence[BaseMetric]) -> None:
    seen: dict[str, BaseMetric] = {}
    for metric in metrics:
        for name in reported_keys(metric) or ():
            if name in seen:
                raise InputError(
                    f'{key}: {type(seen[name]).__name__} and {type(metric).__name__} both report {name}; give one of '
                    "them a prefix, such as prefix='second', or name all metrics in one evaluator"
                )
        seen |= dict.fromkeys(reported_keys(metric) or (), metric)


def _require_sample(split: str, metrics: Sequence[BaseMetric], dataset: Dataset) -> None:
    """Prepare the first item as the loop will, and look for what the metrics read."""
    from mmdet.evaluation import CocoMetric
    from mmseg.evaluation import IoUMetric

    from mmbackbones.evaluation.boundary import BoundaryIoUMetric

    for metric in metrics:
        if isinstance(metric, BoundaryIoUMetric):
            metric.require_classes(dataset.metainfo['classes'])
    coco = [metric for metric in metrics if isinstance(metric, CocoMetric)]
    labelled = [
        metric for metric in metrics if isinstance(metric, IoUMetric | BoundaryIoUMetric) and not metric.format_only
    ]
    where = f'{split}_dataloader.dataset'
    if not (coco or labelled) or not len(dataset):
        return
    if labelled and not dataset.get_data_info(0).get('seg_map_path'):
        raise InputError(
            f'{where}: has no label masks (data_prefix.seg_map_path is not set), but {split}_evaluator compares with '
            f'them; {split}_evaluator.format_only=True keeps predictions without a score'
        )
    state = get_random_state()
    try:
        packed = dataset[0]
    except Exception as error:  # a pipeline raises what it likes; the loop would meet the same, much later
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise InputError(f'{where}.pipeline: the first image cannot be prepared: {reason}') from error
    finally:
        set_random_state(state)
    samples = packed.get('data_samples') if isinstance(packed, dict) else None
    sample = samples[0] if isinstance(samples, list | tuple) else samples
    if sample is None:
        return
    for name, source in DETECTION_KEYS.items() if coco else ():
        if name not in sample:
            raise InputError(f'{where}.pipeline: samples have no {name}, which the test needs: {source}')
    if any(metric._coco_api is None for metric in coco) and 'instances' not in sample:
        raise InputError(f'{split}_evaluator.ann_file: not set, and samples hold no ground truth (instances) either')
    if labelled:
        if 'gt_sem_seg' not in sample:
            raise InputError(f'{where}.pipeline: has no LoadAnnotations, so there are no labels to compare with')
        label, image = tuple(np.shape(sample.gt_sem_seg.data)[-2:]), tuple(sample.ori_shape[:2])
        if label != image and not isinstance(samples, list | tuple):
            raise InputError(
                f'{where}.pipeline: labels are {label[1]}x{label[0]} px, but predictions get the size of the image, '
                f'{image[1]}x{image[0]}; LoadAnnotations belongs behind Resize in a test'
            )
