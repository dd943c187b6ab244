"""A detector or segmentor with its weights: the frameworks' inferencers, loaded as ``tools/test.py`` loads.

mmdet's ``DetInferencer`` and mmseg's ``MMSegInferencer`` prepare an image, run the model and own the visualizer. Only
the loading of weights is replaced, because theirs goes on with weights that do not fit.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement
from mmseg.apis import MMSegInferencer
from torch import Tensor, nn

from mmbackbones.checkpoints.layout import find_weights
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.read import Checkpoint
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.datasets.check.image_reader import ImageReader
from mmbackbones.engine.checks import require_class_count, require_classes, require_trained_classes
from mmbackbones.engine.config import load_config, run_name
from mmbackbones.engine.device import adapt_to_device, require_device
from mmbackbones.engine.initial_weights import drop_pretrained
from mmbackbones.engine.preflight.images import naming
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import dense_task_of

LABELLED = 300  # px; a map of at least this size is painted with the names of its classes
VISUALIZERS: dict[str, dict[str, Any]] = {
    'detection': dict(type='mmdet.DetLocalVisualizer'),
    'segmentation': dict(type='mmseg.SegLocalVisualizer', alpha=0.5),
}


class Prepared(NamedTuple):
    """An image as the backbone gets it.

    Attributes:
        image: [1, 3, H, W] normalized and padded, on the model's device.
        size: height and width of its part that is no padding.
        scale: pixels of it per pixel of the original image, for x and y.
    """

    image: Tensor
    size: tuple[int, int]
    scale: tuple[float, float]


class Model:
    """A detector or segmentor that takes images as arrays.

    Args:
        config: see :func:`mmbackbones.engine.config.load_config`, also for ``overrides`` and ``backbone``.
        checkpoint: address of the weights, see :func:`mmbackbones.checkpoints.load.load_checkpoint`.
        device: see :func:`mmbackbones.engine.device.require_device`.
        score_threshold: lowest score of a detection, 0 to 1. None: 0.3. Segmentors have none.

    Raises:
        InputError: a threshold out of its range or for a segmentor; config, checkpoint or device cannot be used; the
            weights do not fit the model.

    Attributes:
        name (str): of the config and the backbone that replaces its own.
        task (str): ``'detection'`` or ``'segmentation'``.
        classes (tuple[str, ...]): names of the classes, by label.
        notes (list[str]): what was changed for this machine, and what was loaded.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str,
        device: str | None = None,
        score_threshold: float | None = None,
        overrides: dict | None = None,
        backbone: str | None = None,
    ):
        cfg = load_config(config, overrides, backbone)
        self.name, self.config, self.checkpoint = run_name(config, backbone), str(config), checkpoint
        self.task = dense_task_of(cfg)
        self.device = require_device(device)
        if self.task == 'segmentation' and score_threshold is not None:
            raise InputError(f'--score-threshold: for detectors only, and {config} is a segmentor')
        self.score_threshold = 0.3 if score_threshold is None else require_threshold(score_threshold)
        if not (cfg.get('test_dataloader') or {}).get('dataset'):
            raise InputError(f'{config}: it has no test_dataloader.dataset, whose pipeline prepares the images')
        cfg.test_dataloader.dataset = dataset = _inner(cfg.test_dataloader.dataset)
        steps = [step['type'] for step in dataset.get('pipeline') or []]
        if not any(str(step).rpartition('.')[2] == 'LoadImageFromFile' for step in steps):
            raise InputError(f'{config}: test_dataloader.dataset.pipeline has no LoadImageFromFile')
        drop_pretrained(cfg)
        weights = load_checkpoint(checkpoint)
        self.notes = adapt_to_device(cfg, 'none') if self.device.startswith('cuda') else []
        cfg.visualizer = dict(VISUALIZERS[self.task], name=f'demo {id(self)}')
        self.reader = ImageReader.of(dataset.pipeline)
        self.scope = 'mmdet' if self.task == 'detection' else 'mmseg'
        init_default_scope(self.scope)
        kind = _Detector if self.task == 'detection' else _Segmentor
        self.inferencer = kind(cfg, self.device, weights, checkpoint, _classes_of(dataset, self.scope))
        self.notes.append(self.inferencer.loaded)
        meta = self.inferencer.model.dataset_meta
        self.classes = tuple(meta['classes'])
        self.inferencer.visualizer.dataset_meta = meta

    @property
    def backbone(self) -> nn.Module:
        """The backbone of the model."""
        return self.inferencer.model.backbone

    def _scope(self) -> AbstractContextManager:
        """The framework's scope, also after a model of the other framework was loaded."""
        return DefaultScope.overwrite_default_scope(self.scope)

    def predict(self, image: np.ndarray, name: str = 'the image') -> BaseDataElement:
        """Predict one image.

        Args:
            image: [H, W, 3] uint8 BGR.
            name: of the image, in messages.

        Returns:
            BaseDataElement: mmdet's or mmseg's data sample, on the CPU. Of detections those are kept whose score
            reaches the threshold.

        Raises:
            InputError: the image is too small for the network.
        """
        batch = {'data_samples': BaseDataElement(metainfo=dict(img_path=name, ori_shape=image.shape[:2]))}
        with self._scope(), naming(lambda: batch), torch.no_grad():
            data = self.inferencer.collate_fn([self.inferencer.pipeline(image)])
            (sample,) = self.inferencer.model.test_step(data)
        sample = sample.cpu()
        if self.task == 'detection':
            found = sample.pred_instances
            sample.pred_instances = found[found.scores >= self.score_threshold]
        return sample

    def paint(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Paint a prediction with the framework's visualizer.

        Args:
            image: [H, W, 3] uint8 BGR.
            sample: the result of :meth:`predict` for it.

        Returns:
            np.ndarray: [H, W, 3] uint8 BGR.
        """
        options: dict[str, Any] = dict(pred_score_thr=0)
        if self.task == 'segmentation':  # names of classes would cover a small image
            options = dict(with_labels=min(image.shape[:2]) >= LABELLED)
        visualizer = self.inferencer.visualizer
        visualizer.add_datasample('demo', image[..., ::-1].copy(), sample, draw_gt=False, **options)
        return visualizer.get_image()[..., ::-1]

    def prepare(self, image: np.ndarray) -> Prepared:
        """Prepare an image for the backbone as a test does, for measurements.

        Args:
            image: [H, W, 3] uint8 BGR.
        """
        with self._scope():
            data = self.inferencer.collate_fn([self.inferencer.pipeline(image)])
        size = tuple(data['inputs'][0].shape[-2:])
        batch = self.inferencer.model.data_preprocessor(data, False)['inputs']
        return Prepared(batch, size, (size[1] / image.shape[1], size[0] / image.shape[0]))


def require_threshold(value: float) -> float:
    """A threshold of scores from 0 to 1.

    Raises:
        InputError: it is outside.
    """
    if not 0 <= value <= 1:
        raise InputError(f'--score-threshold {value:g}: expected a number from 0 to 1')
    return value


class _StrictLoading:
    """An inferencer that takes the content of a checkpoint, and refuses weights that do not fit."""

    loaded = ''

    def __init__(self, cfg: Config, device: str, weights: Checkpoint, name: str, dataset: Any):
        self._weights, self._name, self._dataset = weights, name, dataset
        super().__init__(model=cfg, device=device, show_progress=False)  # type: ignore[call-arg]
        del self._weights

    def _init_collate(self, cfg: Config) -> Any:
        return pseudo_collate  # images are predicted one by one

    def _load_weights_to_model(self, model: nn.Module, checkpoint: None, cfg: Config) -> None:
        content = self._weights.content
        require_class_count(model, self._dataset)
        meta = content.get('meta')
        require_trained_classes(meta, self._dataset, self._name)
        weights, notes = find_weights(content, self._name)
        self.loaded = load_weights(model, weights, name=self._name, notes=notes)
        model.dataset_meta = dict(
            classes=_trained_classes(meta, require_classes('test', self._dataset)),
            palette=self._dataset.metainfo.get('palette') or 'random',
        )


class _Detector(_StrictLoading, DetInferencer):
    pass


class _Segmentor(_StrictLoading, MMSegInferencer):
    pass


def _inner(dataset: ConfigDict) -> ConfigDict:
    """The data set within wrappers; of several the first, since all have the same classes."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def _classes_of(dataset: ConfigDict, scope: str) -> Any:
    """Names and colours of the classes, where a data set has them. No file of the data is needed."""
    kind = dataset['type']
    if not isinstance(kind, type):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    if kind is None:
        raise InputError(f'test_dataloader.dataset.type={dataset["type"]}: no such data set')
    return SimpleNamespace(metainfo=kind._load_metainfo(copy.deepcopy(dataset.get('metainfo'))))


def _trained_classes(meta: object, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes: those of the training, which the checkpoint holds, else those of the config."""
    known = meta.get('dataset_meta') if isinstance(meta, dict) else None
    trained = known.get('classes') if isinstance(known, dict) else None
    if isinstance(trained, list | tuple) and len(trained) == len(classes):
        return tuple(map(str, trained))
    return tuple(classes)
