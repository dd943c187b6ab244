"""Try a runner before it starts: maps without content through neck and heads, and the smallest images."""

import logging
from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmbackbones.backbones.base import STRIDES
from mmbackbones.checkpoints.strict import unwrap
from mmbackbones.engine.preflight.channels import pass_maps
from mmbackbones.engine.preflight.images import try_smallest
from mmbackbones.engine.preflight.meta import MetaRun
from mmbackbones.engine.preflight.schedule import batch_notes, schedule_notes
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of

DETECTOR_SIDE = 1024  # px of a detector's batch, whose images have many sizes: every stride divides it
SEGMENTOR_SIDE = 512  # px, where no crop is given


def try_out(runner: Runner, training: bool) -> None:
    """Refuse what would fail in the middle of the run, and warn of what does not fit its length.

    The model's weights, modes and statistics and the random states stay as they are.

    Args:
        runner (Runner): the runner, before it trains or tests.
        training (bool): whether it trains first.

    Raises:
        InputError: neck or heads do not take the maps that they get, a batch norm gets one value, or an image is too
            small for the network.
    """
    classifier = task_of(runner.cfg) == 'classification'  # its pipelines make all images equal in size
    model = unwrap(runner.model)
    model, cfg = getattr(model, 'module', model), runner.cfg.model.get('module', runner.cfg.model)
    loader = runner.train_dataloader if training else None
    if isinstance(getattr(model, 'backbone', None), nn.Module):
        _try_maps(model, cfg, runner.cfg, loader)
    if loader is not None:
        if not classifier and not _is_padded(model.data_preprocessor):
            try_smallest(runner, loader, training=True)
        if not classifier and runner.val_loop is not None and runner.cfg.val_dataloader != runner.cfg.test_dataloader:
            try_smallest(runner, runner.val_dataloader, training=False)
        for note in (*_crop_notes(runner.cfg), *schedule_notes(runner.cfg, len(loader))):
            print_log(note, logger='current', level=logging.WARNING)
        if classifier:
            for note in batch_notes(runner.cfg, runner.world_size):
                print_log(note, logger='current', level=logging.WARNING)
    if not classifier:
        try_smallest(runner, runner.test_dataloader, training=False)


def _try_maps(model: nn.Module, cfg: Mapping, whole: Config, loader: DataLoader | None) -> None:
    images, least = _batch_sizes(loader) if loader is not None else (1, 1)
    with MetaRun(model).watch() as run:
        for level, note in pass_maps(run, cfg, least, _batch_side(cfg, whole)):
            print_log(note, logger='current', level=level)
    if loader is None or not run.starved:
        return
    reason = f'model.{run.starved[0]} is a batch norm over one value per channel, the pooled map of one image'
    mend = 'or choose another norm_cfg, such as GN'
    if images == 1:
        raise InputError(f'train_dataloader.batch_size=1: {reason}; set it to 2 or more, {mend}')
    key = 'batch_sampler.' if whole.train_dataloader.get('batch_sampler') else ''
    raise InputError(
        f'train_dataloader.batch_size={images} leaves one of the {len(loader.dataset)} images for the last batch: '
        f'{reason}; set train_dataloader.{key}drop_last=True or another batch_size, {mend}'
    )


def _is_padded(preprocessor: nn.Module) -> bool:
    """Whether the images of a training are padded to a size that every network takes."""
    return (
        getattr(preprocessor, 'size', None) is not None or getattr(preprocessor, 'pad_size_divisor', 1) >= STRIDES[-1]
    )


def _batch_sizes(loader: DataLoader) -> tuple[int, int]:
    """Images of a batch in one process, and of the smallest batch."""
    batches = loader.batch_sampler
    size = getattr(batches, 'batch_size', None) or loader.batch_size or 1
    sampler = getattr(batches, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler) or getattr(batches, 'drop_last', loader.drop_last):
        return size, size
    return size, min(size, len(sampler) % size or size)


def _batch_side(cfg: Mapping, whole: Config) -> tuple[int, int]:
    """Height and width of a training batch in pixels."""
    if 'decode_head' not in cfg:
        return DETECTOR_SIDE, DETECTOR_SIDE
    size = (cfg.get('data_preprocessor') or {}).get('size') or next((crop for _, crop in _crops(whole)), None)
    size = size or SEGMENTOR_SIDE
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _crops(cfg: Config) -> Iterator[tuple[str, tuple[int, int]]]:
    """Key and size of the crops of the training, if its data set has a pipeline of its own."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    for i, step in enumerate(dataset.get('pipeline') or ()):
        if isinstance(step, Mapping) and str(step.get('type')).endswith('RandomCrop') and step.get('crop_size'):
            size = step['crop_size']
            key = f'train_dataloader.dataset.pipeline.{i}.crop_size'
            yield key, (size, size) if isinstance(size, int) else tuple(size)


def _crop_notes(cfg: Config) -> Iterator[str]:
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    if size is None:
        return
    for key, crop in list(_crops(cfg))[-1:]:
        if crop != tuple(size):
            smaller = crop[0] <= size[0] and crop[1] <= size[1]
            yield (
                f'{key}={crop}, but model.data_preprocessor.size={tuple(size)}: '
                + ('every batch is padded' if smaller else 'images smaller than the crop do not fit into one batch')
            )
