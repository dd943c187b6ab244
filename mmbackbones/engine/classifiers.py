"""Test of published classifiers: with the authors' resolution and crop, and with the figure that they print."""

import math

from mmengine.config import Config

from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of
from mmbackbones.zoo.models import published_test
from mmbackbones.zoo.published import match_network
from mmbackbones.zoo.weights import SCHEME

RESIZE, CROP = 'ResizeEdge', 'CenterCrop'


def use_published_test(cfg: Config, checkpoint: str, options: dict) -> str:
    """Make a configuration test weights of the zoo as their authors do, in place. Other weights are left alone.

    A classifier of mmpretrain whose test resizes the short side and crops the centre is changed. What ``options`` set
    stays.

    Args:
        cfg (Config): the configuration.
        checkpoint (str): as on the command line; ``zoo://NAME`` names weights of the zoo.
        options (dict): overrides of the configuration, by dotted keys.

    Returns:
        str: the end of the line for the user: the published figure and its source; empty for other weights.

    Raises:
        InputError: no such model, or the test has no such steps.
    """
    scheme, found, name = checkpoint.partition('://')
    if task_of(cfg) != 'classification' or not found or scheme != SCHEME:
        return ''
    test = published_test(name)
    if not any(key.startswith('test_dataloader.dataset.pipeline') for key in options):
        _set_test(cfg, test)
    match = match_network(name.replace('_', '-'), 'classification')
    said = f'  at {test["size"]} px, crop {test["crop"]:g}, {test["interpolation"]}'
    if match.row is None or 'top1' not in match.row.metrics:
        return f'{said}; no figure is published ({match.remark})'
    return f'{said}; published: top-1 {match.row.metrics["top1"]:g} ({match.row.source})'


def _set_test(cfg: Config, test: dict) -> None:
    steps = {str(step.get('type')).rpartition('.')[2]: step for step in cfg.test_dataloader.dataset.pipeline}
    if RESIZE not in steps or CROP not in steps:
        raise InputError(f'test_dataloader.dataset.pipeline: expected {RESIZE} and {CROP}, to test as the authors do')
    # Rounded down, as timm and the authors do.
    steps[RESIZE].update(scale=math.floor(test['size'] / test['crop']), interpolation=test['interpolation'])
    steps[CROP].update(crop_size=test['size'])
