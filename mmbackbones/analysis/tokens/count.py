"""Lengths of a backbone's sequences in dense prediction, from annotations.

A Transformer block with MLP ratio 4 costs 24 D^2 L + 4 D L^2 FLOPs for L tokens of D channels. The second term is the
quadratic part of attention. It exceeds the first if r = L / (6 D) > 1. MambaOut (CVPR 2025, section 3.2) calls such a
task long-sequence, for patches of 16 px and the widths of ViT. Here L is a distribution over the images of a data set,
after the pipeline and the padding of a config, in every stage of its backbone.

Sizes are distinct pairs with weights. A random resize contributes all its choices with equal weight. A resize that
draws a ratio contributes the midpoints of :data:`RATIOS` equal parts of its range. Batches have one image here, so
there is no padding to the largest image of a batch.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmcv.image.geometric import rescale_size
from mmengine.config import Config
from PIL import Image

from mmbackbones.analysis.complexity.count import build_without_values
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of

RATIOS = 64
IMAGENET = (224, 224)
# Height and width at which MambaOut's argument counts tokens, its patch size, and the widths of ViT-S and ViT-B.
PAPER_SHAPES = {'ImageNet': IMAGENET, 'COCO': (800, 1280), 'ADE20K': (512, 2048)}
PAPER_PATCH, PAPER_WIDTHS = 16, (384, 768)
SIZELESS = (
    'LoadImageFromFile',
    'LoadAnnotations',
    'FilterAnnotations',
    'RandomFlip',
    'PhotoMetricDistortion',
    'YOLOXHSVRandomAug',
    'PackDetInputs',
    'PackSegInputs',
)


@dataclass(frozen=True)
class Sizes:
    """A distribution of image sizes.

    Attributes:
        hw (np.ndarray): distinct heights and widths in pixels, int64 [K, 2].
        weight (np.ndarray): number of images of each size, possibly fractional, float64 [K].
    """

    hw: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, hw: np.ndarray | Sequence, weight: np.ndarray | Sequence | None = None) -> 'Sizes':
        """Make a distribution from sizes that may repeat."""
        hw = np.asarray(hw, np.int64).reshape(-1, 2)
        weight = np.ones(len(hw)) if weight is None else np.asarray(weight, float)
        distinct, inverse = np.unique(hw, axis=0, return_inverse=True)
        return cls(distinct, np.bincount(inverse.ravel(), weight, len(distinct)))

    def map(self, function: Callable[[int, int], tuple[int, int]]) -> 'Sizes':
        """Each size replaced by another, (height, width) to (height, width)."""
        return Sizes.of([function(int(h), int(w)) for h, w in self.hw], self.weight)

    @staticmethod
    def mixture(parts: Sequence[tuple[float, 'Sizes']]) -> 'Sizes':
        """Mix distributions with given probabilities."""
        return Sizes.of(
            np.concatenate([part.hw for _, part in parts]), np.concatenate([p * part.weight for p, part in parts])
        )

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.hw.tobytes() + self.weight.tobytes()).hexdigest()[:12]


@dataclass(frozen=True)
class StageTokens:
    """Tokens of one stage over a data set.

    Attributes:
        stage (int): number of the stage, from 1; plain nets have one stage.
        stride (int): pixels per token and side.
        channels (int): channels D.
        tokens (np.ndarray): distinct counts L, ascending, int64 [K].
        weight (np.ndarray): number of images with each count, float64 [K].
    """

    stage: int
    stride: int
    channels: int
    tokens: np.ndarray
    weight: np.ndarray

    def quantile(self, q: float) -> int:
        """The smallest count that at least a share ``q`` of the images does not exceed."""
        share = np.cumsum(self.weight) / self.weight.sum()
        return int(self.tokens[min(np.searchsorted(share, q - 1e-12), len(share) - 1)])

    @property
    def mean(self) -> float:
        return float(np.average(self.tokens, weights=self.weight))

    @property
    def threshold(self) -> int:
        """Tokens above which the sequence is long: 6 D."""
        return 6 * self.channels

    @property
    def long_share(self) -> float:
        """Share of the images with r > 1."""
        return float(self.weight[self.tokens > self.threshold].sum() / self.weight.sum())


def block_flops(tokens: float, channels: int) -> float:
    """FLOPs of a Transformer block with MLP ratio 4 (MambaOut, equation 4): 24 D^2 L + 4 D L^2."""
    return 24 * channels**2 * tokens + 4 * channels * tokens**2


def ratio(tokens: float, channels: int) -> float:
    """r = L / (6 D), the quadratic term of :func:`block_flops` over the linear one."""
    return tokens / (6 * channels)


def count_tokens(sizes: Sizes, stages: Sequence[tuple[int, int]]) -> list[StageTokens]:
    """Count the tokens per stage. A side that is not a multiple of the stride is rounded up.

    LocalVMamba and EfficientVMamba round such a side down, so they have up to one row and one column less.

    Args:
        sizes: sizes of the backbone's input images.
        stages: stride and channels of each stage.
    """
    result = []
    for number, (stride, channels) in enumerate(stages, 1):
        tokens, inverse = np.unique((-(-sizes.hw // stride)).prod(axis=1), return_inverse=True)
        weight = np.bincount(inverse.ravel(), sizes.weight, len(tokens))
        result.append(StageTokens(number, stride, channels, tokens, weight))
    return result


def stages_of(cfg: Config) -> list[tuple[int, int]]:
    """Stride and channels of every distinct map of a config's backbone.

    Raises:
        InputError: the backbone does not state them.
    """
    backbone = build_without_values({**cfg.model.backbone, 'init_cfg': None})
    if not hasattr(backbone, 'out_strides') or not hasattr(backbone, 'out_channels'):
        raise InputError(
            f'model.backbone.type={cfg.model.backbone.type}: has no out_strides and out_channels, '
            'from which tokens are counted'
        )
    return list(dict.fromkeys(zip(backbone.out_strides, backbone.out_channels)))


def network_sizes(cfg: Config, split: str = 'test', originals: Sizes | None = None) -> Sizes:
    """Sizes of the backbone's input images over a data set.

    Args:
        cfg: configuration of a detector or segmentor.
        split: ``'train'``, ``'val'`` or ``'test'``.
        originals: sizes of the images on the disk. By default they are read from the annotations or the images'
            headers, unless the pipeline makes all sizes equal.

    Raises:
        InputError: the data are missing, or a step of the pipeline has an unknown effect on sizes.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise InputError(f'{split}_dataloader: the config has none')
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    fixed = _fixed_size(cfg, split, dataset.pipeline)
    if fixed is not None:
        return Sizes.of([fixed])
    sizes = dataset_sizes(dataset) if originals is None else originals
    return _preprocess(cfg, split, apply_pipeline(sizes, dataset.pipeline))


def dataset_sizes(dataset: dict) -> Sizes:
    """Image sizes of a data set: from a COCO annotation file, or from the headers of the images of a folder.

    Raises:
        InputError: the file or folder is missing, malformed or empty.
    """
    root = Path(dataset.get('data_root') or '')
    if dataset.get('ann_file') and str(dataset['ann_file']).endswith('.json'):
        return _coco_sizes(root / dataset['ann_file'], dataset.get('filter_cfg') or {})
    folder = root / dataset['data_prefix']['img_path']
    if not folder.is_dir():
        raise InputError(f'{folder}: no such folder of images')
    suffix = dataset.get('img_suffix', '.jpg')
    hw = []
    for path in sorted(folder.rglob(f'*{suffix}')):
        try:
            with Image.open(path) as image:  # reads the header alone
                hw.append(image.size[::-1])
        except OSError as error:
            raise InputError(f'{path}: not a readable image ({error})') from error
    if not hw:
        raise InputError(f'{folder}: no *{suffix} images')
    return Sizes.of(hw)


def _coco_sizes(path: Path, filter_cfg: dict) -> Sizes:
    """Sizes of a COCO file, filtered like mmdet's CocoDataset, but without its index of a million objects."""
    try:
        content = json.loads(path.read_bytes())
        images = {image['id']: (image['height'], image['width']) for image in content['images']}
        if filter_cfg.get('filter_empty_gt'):
            annotated = {annotation['image_id'] for annotation in content['annotations']}
            images = {key: size for key, size in images.items() if key in annotated}
    except OSError as error:
        raise InputError(f'{path}: no readable annotation file ({error.strerror})') from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: not a COCO annotation file ({error!r})') from error
    hw = [size for size in images.values() if min(size) >= filter_cfg.get('min_size', 0)]
    if not hw:
        raise InputError(f'{path}: no images')
    return Sizes.of(hw)


def apply_pipeline(sizes: Sizes, pipeline: Sequence[dict]) -> Sizes:
    """The distribution of sizes after a pipeline.

    Raises:
        InputError: a step has an unknown effect on sizes.
    """
    for step in pipeline:
        kind = step['type']
        if kind == 'Resize':
            sizes = _resize(sizes, step)
        elif kind == 'RandomResize' and step.get('ratio_range'):
            low, high = step['ratio_range']
            ratios = low + (high - low) * (np.arange(RATIOS) + 0.5) / RATIOS
            scales = [tuple(int(side * ratio) for side in step['scale']) for ratio in ratios]
            sizes = Sizes.mixture([(1 / RATIOS, _resize(sizes, dict(step, scale=scale))) for scale in scales])
        elif kind == 'RandomChoiceResize':
            scales = step['scales']
            sizes = Sizes.mixture([(1 / len(scales), _resize(sizes, dict(step, scale=scale))) for scale in scales])
        elif kind == 'RandomChoice':
            branches = step['transforms']
            chances = step.get('prob') or [1 / len(branches)] * len(branches)
            sizes = Sizes.mixture([(p, apply_pipeline(sizes, branch)) for p, branch in zip(chances, branches)])
        elif kind == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute':
            height, width = _pair(step['crop_size'])
            sizes = sizes.map(lambda h, w, height=height, width=width: (min(h, height), min(w, width)))
        elif kind == 'Pad' and step.get('size'):
            width, height = _pair(step['size'])
            sizes = sizes.map(lambda h, w, height=height, width=width: (max(h, height), max(w, width)))
        elif kind not in SIZELESS:
            raise InputError(
                f'pipeline step {kind}: its effect on image sizes is not known here; known are Resize, '
                'RandomResize by ratio, RandomChoiceResize, RandomChoice, absolute RandomCrop and Pad to a size'
            )
    return sizes


def _resize(sizes: Sizes, step: dict) -> Sizes:
    if not step.get('scale'):
        factor = step['scale_factor']
        factors = factor if isinstance(factor, Sequence) else (factor, factor)
        return sizes.map(lambda h, w: (int(h * factors[1] + 0.5), int(w * factors[0] + 0.5)))
    scale = _pair(step['scale'])
    if not step.get('keep_ratio', False):
        return sizes.map(lambda h, w: scale[::-1])
    return sizes.map(lambda h, w: rescale_size((w, h), tuple(scale))[::-1])


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _fixed_size(cfg: Config, split: str, pipeline: Sequence[dict]) -> tuple[int, int] | None:
    """Size of every image if crops are padded to one size, as in the training of segmentors."""
    size = cfg.model.get('data_preprocessor', {}).get('size')
    crops = [_pair(step['crop_size']) for step in pipeline if step['type'] == 'RandomCrop']
    if split != 'train' or not size or not crops or crops[-1][0] > size[0] or crops[-1][1] > size[1]:
        return None
    return tuple(size)


def _preprocess(cfg: Config, split: str, sizes: Sizes) -> Sizes:
    """Padding, and the window of a sliding test."""
    settings = cfg.model.get('data_preprocessor', {})
    if task_of(cfg) == 'segmentation' and split != 'train':
        settings = settings.get('test_cfg') or {}
        if cfg.model.get('test_cfg', {}).get('mode') == 'slide':
            height, width = cfg.model.test_cfg.crop_size
            sizes = sizes.map(lambda h, w: (min(h, height), min(w, width)))
    least = settings.get('size') or (0, 0)
    divisor = settings.get('pad_size_divisor') or settings.get('size_divisor') or 1
    return sizes.map(lambda h, w: tuple(-(-max(x, y) // divisor) * divisor for x, y in zip((h, w), least)))
