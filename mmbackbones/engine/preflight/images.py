"""Images that are too small for a network: found before a run, and named wherever a network refuses one."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mmbackbones.checkpoints.random_state import get_random_state, set_random_state
from mmbackbones.datasets.check.files import in_threads, inspect_image
from mmbackbones.errors import InputError

# What torch, mmseg and our backbones say of an image or map that is too small, or of images that make no batch.
REFUSAL = re.compile(
    r'[Oo]utput size is too small|greater than actual input|Expected more than 1 value per channel|'
    r'is smaller than the stem|takes no image of|sizes should be greater than 0|'
    r'Padding size should be less|stack expects each tensor|image size in a batch should be the same'
)
SAFE_SIDE = 128  # px; an image with longer sides has a pixel in the coarsest map of every pyramid
NAMED = 3  # images of a batch that a message names


class NamesImages(Runner):
    """A runner that names the images of the batch when the network refuses their size.

    Raises:
        InputError: in training, validation and test, in place of torch's or the network's own error.
    """

    _batch: object = None

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        if 'data_batch' in kwargs:
            self._batch = None  # errors of hooks are their own
        super().call_hook(fn_name, **kwargs)
        if 'data_batch' in kwargs and fn_name.startswith('before_'):
            self._batch = kwargs['data_batch']

    def train(self) -> torch.nn.Module:
        with naming(lambda: self._batch):
            return super().train()

    def val(self) -> dict:
        with naming(lambda: self._batch):
            return super().val()

    def test(self) -> dict:
        with naming(lambda: self._batch):
            return super().test()


@contextmanager
def naming(batch: Callable[[], object]) -> Iterator[None]:
    """Within it, a network's refusal of an image's size is an InputError that names the images of ``batch()``."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        names = list(_names(batch())) if REFUSAL.search(str(error)) else []
        if not names:
            raise
        shown = ', '.join(names[:NAMED]) + (f' and {len(names) - NAMED} others' if len(names) > NAMED else '')
        raise InputError(f'{shown}: does not fit the network: {" ".join(str(error).split())}') from error


def _names(batch: object) -> Iterator[str]:
    """File and size of every image of a batch, which may be nested as test-time augmentation nests it."""
    if isinstance(batch, dict):
        yield from _names(batch.get('data_samples'))
    elif isinstance(batch, list | tuple):
        seen: dict[str, None] = {}
        for item in batch:
            seen |= dict.fromkeys(_names(item))
        yield from seen
    elif hasattr(batch, 'metainfo') and 'img_path' in batch.metainfo:
        size = batch.metainfo.get('ori_shape')
        yield f'{batch.metainfo["img_path"]}{f" ({size[1]}x{size[0]} px)" if size else ""}'


def try_smallest(runner: Runner, loader: DataLoader, training: bool) -> None:
    """Pass the smallest and the narrowest image of a data set through the network, if they are small.

    Random states, modes and statistics stay as they are.

    Args:
        runner (Runner): its model is used as it is, with or without pretrained weights.
        loader (DataLoader): the data set's.
        training (bool): whether it is the data of the training.

    Raises:
        InputError: the network does not take an image's size. The message names the image.
    """
    state, modes = get_random_state(), {module: module.training for module in runner.model.modules()}
    runner.model.eval()
    try:
        for index in _extremes(loader.dataset):
            batch = loader.collate_fn([loader.dataset[index]])
            if isinstance(batch, dict) and _shortest_side(batch.get('inputs', ())) < SAFE_SIDE:
                with naming(lambda: batch), torch.no_grad():  # noqa: B023 (called within this turn)
                    _forward(runner.model, batch, training)
    finally:
        for module, mode in modes.items():
            module.training = mode
        set_random_state(state)


def _forward(model: torch.nn.Module, batch: dict, training: bool) -> None:
    try:
        if training:
            model = getattr(model, 'module', model)
            model(**model.data_preprocessor(batch, training=True), mode='tensor')
        else:
            model.test_step(batch)
    except Exception as error:
        if isinstance(error, InputError) or REFUSAL.search(str(error)):
            raise
        # Weights without training may give what trained ones do not.
        print_log(f'the smallest image could not be tried: {" ".join(str(error).split())}', logger='current')


def _shortest_side(inputs: Any) -> int:
    if isinstance(inputs, torch.Tensor):
        return min(inputs.shape[-2:])
    return min((_shortest_side(one) for one in inputs), default=SAFE_SIDE)


def _extremes(dataset: Dataset) -> list[int]:
    """Indices of the image with the shortest side and of the narrowest one."""
    if not hasattr(dataset, 'get_data_info'):
        return []
    sizes = _sizes(dataset)
    known = [(i, size) for i, size in enumerate(sizes) if size and min(size) > 0]
    if not known:
        return []
    shortest = min(known, key=lambda item: min(item[1]))[0]
    narrowest = min(known, key=lambda item: min(item[1]) / max(item[1]))[0]
    return sorted({shortest, narrowest})


def _sizes(dataset: Dataset) -> list[tuple[int, int] | None]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    if all('height' in info and 'width' in info for info in infos):
        return [(info['height'], info['width']) for info in infos]
    return in_threads(_size, [info.get('img_path', '') for info in infos], 'image sizes')


def _size(path: str) -> tuple[int, int] | None:
    return inspect_image(path).size
