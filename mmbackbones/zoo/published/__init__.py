"""Published results with their sources, and the published row of each of our configs.

The tables beside this file have the figures of papers and authors' repositories. ``family`` and ``variant`` of
``models.csv`` name the rows of a model. ``configs.csv`` has what these do not tell: how the published network differs
from ours, why there is no row, and rows with another name. In it, ``*`` matches anything, the first matching line
counts, and the family ``-`` says that nothing is compared. Networks are named as in our configs: ``mambaout-tiny``. Its
task is a key of :data:`SETTINGS`: a task for its usual head and schedule, else the name of another one.

A published "1x" is not one recipe. :data:`PRETRAINING_EXTRAS` and :data:`AUGMENTATIONS_1X` are the words for what a row
has beyond the plain one. An empty cell means nothing beyond, as far as the source says. The column ``verified`` is
``no`` where the figure is quoted from somebody else's table, ``yes`` where it was looked up again, else empty.
"""

import functools
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mmbackbones.errors import InputError
from mmbackbones.zoo.rows import named_rows, read_rows

TABLES = {
    'detection': 'coco_mask_rcnn_1x.csv',
    'segmentation': 'ade20k_upernet_160k.csv',
    'classification': 'imagenet.csv',
}
# The column that tells apart what else differs between rows of one network, and what our own recipe is comparable to.
RECIPES = {
    'detection': ('schedule', '1x (12 epochs)'),
    'segmentation': ('iterations', '160k'),
    'classification': ('resolution', '224'),
}
CROP = '512x512'  # of our segmentors


@dataclass(frozen=True)
class Setting:
    """A task, a head and a schedule whose published rows our configs are compared with.

    Attributes:
        task (str): a key of :data:`TABLES`.
        head (str): as in :class:`PublishedRow`.
        recipe (str | None): as in :class:`PublishedRow`; None: any, where sources state none or several.
    """

    task: str
    head: str
    recipe: str | None


MULTI_SCALE_3X = '3x multi-scale (36 epochs)'
SETTINGS = {
    'detection': Setting('detection', 'Mask R-CNN', RECIPES['detection'][1]),
    'segmentation': Setting('segmentation', 'UperNet', RECIPES['segmentation'][1]),
    'classification': Setting('classification', '', RECIPES['classification'][1]),
    'mask-rcnn-3x': Setting('detection', 'Mask R-CNN', MULTI_SCALE_3X),
    'cascade-mask-rcnn-3x': Setting('detection', 'Cascade Mask R-CNN', MULTI_SCALE_3X),
    'cascade-mask-rcnn-lsj': Setting('detection', 'Cascade Mask R-CNN, ViTDet pyramid', None),
    'rtmdet-ins': Setting('detection', 'RTMDet-Ins', None),
    'mamba-yolo': Setting('detection', 'one-stage, Ultralytics', None),
}
# Patterns of the names of detectors' configs, and their settings. The first one that fits counts.
DETECTORS = {
    'cascade-mask-rcnn_*lsj-*': 'cascade-mask-rcnn-lsj',
    'cascade-mask-rcnn_*': 'cascade-mask-rcnn-3x',
    'rtmdet-ins*': 'rtmdet-ins',
    'mask-rcnn_*[-_]3x_*': 'mask-rcnn-3x',
    'mask-rcnn_3x_*': 'mask-rcnn-3x',
    'mask-rcnn_*': 'detection',
}
METRICS = ('AP_box', 'AP50_box', 'AP75_box', 'AP_mask', 'AP50_mask', 'AP75_mask', 'mIoU_ss', 'mIoU_ms', 'top1')
TOKEN_MIXERS = ('conv', 'ssm', 'linear-attn', 'ttt', 'wkv', 'attn')
# Words of the column pretraining_extras, beyond supervised training on ImageNet-1K.
PRETRAINING_EXTRAS = {
    'MESA': "a moving average of the network's own weights teaches it",
    'distillation': 'another network teaches it',
    'ImageNet-21K': 'more labelled images, those of ImageNet-21K',
    'ImageNet-22K': 'more labelled images, those of ImageNet-22K',
}
# Words of the column augmentation_1x, beyond resizing to 1333x800 and flipping (Swin's Mask R-CNN 1x).
AUGMENTATIONS_1X = {
    'multi-scale crop': "short sides of 480 to 800 and random crops, as in Swin's 3x",
}
RECIPE_OF_FOLDER = {'native': 'native', 'quickstart': 'quickstart', 'miniature': 'quickstart'}
SEGMENTORS = ('upernet', 'fcn-1x1')
CLASSIFIER = 'imagenet-224'
OTHER_DATA = {'cityscapes': 'Cityscapes', 'loveda': 'LoveDA'}  # in the names of tasks, none of which is in the tables
CONFIG_NAME = re.compile(
    r'(?P<detector>(cascade-)?mask-rcnn_|rtmdet-ins(-tiny)?_)?(?P<network>[a-z][^_]*)_(?P<head>[^_]+)_.*'
)


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        task (str): ``'detection'``, ``'segmentation'`` or ``'classification'``.
        family, variant (str): as the source names the network.
        token_mixer (str): one of :data:`TOKEN_MIXERS`, or several, joined by ``+``.
        head (str): detector or segmentor; empty for classifiers.
        recipe (str): schedule, iterations or resolution.
        crop (str): crop of training, such as ``'512x512'``; empty for other tasks, or if it is not stated.
        params (float | None): million parameters of the whole model.
        macs (float | None): G multiply-accumulates, by the source's rules.
        shape (str): image size of ``macs`` as the source states it.
        metrics (dict[str, float]): those of :data:`METRICS` that are published, in percent.
        pretraining_extras (str): one of :data:`PRETRAINING_EXTRAS`, or empty.
        augmentation_1x (str): one of :data:`AUGMENTATIONS_1X`, or empty; only detectors trained for 12 epochs have it.
        source, note (str): source of the row, and remarks on it.
    """

    task: str
    family: str
    variant: str
    token_mixer: str
    head: str
    recipe: str
    crop: str
    params: float | None
    macs: float | None
    shape: str
    metrics: dict[str, float]
    pretraining_extras: str
    augmentation_1x: str
    source: str
    note: str

    @property
    def name(self) -> str:
        return f'{self.family} {self.variant}'

    @property
    def beyond_plain(self) -> str:
        """What the row has beyond plain pretraining and Swin's 1x; empty if nothing is known."""
        parts = [f'pretraining: {self.pretraining_extras}'] if self.pretraining_extras else []
        parts += [f'1x: {self.augmentation_1x}'] if self.augmentation_1x else []
        return ', '.join(parts)


@dataclass(frozen=True)
class Match:
    """The published row to which a config of ours may be compared.

    Attributes:
        row (PublishedRow | None): None if there is no published row.
        remark (str): why there is none, or how the published network differs from ours; empty if it does not differ.
    """

    row: PublishedRow | None
    remark: str


@functools.cache
def published_rows(task: str) -> tuple[PublishedRow, ...]:
    """All rows of a task, in the order of the table.

    Raises:
        InputError: no such task.
    """
    if task not in TABLES:
        raise InputError(f'task {task!r}: expected one of {", ".join(TABLES)}')
    return tuple(_row(task, line) for line in _read(TABLES[task]))


def row_of(setting: str, family: str, variant: str) -> PublishedRow | None:
    """The row to which ours is compared, by a key of :data:`SETTINGS`; None if there is none."""
    wanted = SETTINGS[setting]
    rows = (row for row in published_rows(wanted.task) if (row.family, row.variant) == (family, variant))
    return next((row for row in rows if row.head == wanted.head and wanted.recipe in (row.recipe, None)), None)


def token_mixer(family: str, variant: str) -> str:
    """What mixes the tokens of a published network, such as ``'conv+ssm'``; empty if it is in no table."""
    rows = (row for task in TABLES for row in published_rows(task))
    return next((row.token_mixer for row in rows if (row.family, row.variant) == (family, variant)), '')


def published_checkpoints() -> list[dict[str, str]]:
    """Released detectors and segmentors: family, variant, task, url, layout, pickled_beside_tensors, source.

    ``models.csv`` has the addresses of the ImageNet weights.
    """
    return _read('checkpoints.csv')


def published_row(
    task: str, family: str, variant: str, recipe: str | None = None, head: str | None = None
) -> PublishedRow:
    """Find a row by the names that its source uses; by default with the head and recipe to which ours is compared.

    Raises:
        InputError: there is no such row, or more than one.
    """
    wanted = (recipe or RECIPES[task][1], SETTINGS[task].head if head is None else head)
    found = [row for row in published_rows(task) if (row.family, row.variant) == (family, variant)]
    rows = [row for row in found if (row.recipe, row.head) == wanted]
    if len(rows) != 1:
        raise InputError(f'{len(rows)} published rows of {family} {variant} under {wanted[0]!r} ({task}), expected one')
    return rows[0]


def match(config: str | Path, recipe: str | None = None, backbone: str | None = None) -> Match:
    """The published row of a config.

    Args:
        config: path, or name as in records.
        recipe: ``'common'``, ``'native'`` or ``'quickstart'``; by default that of the folder.
        backbone: model of the zoo that replaces the config's backbone.
    """
    config = Path(config)
    recipe = recipe or RECIPE_OF_FOLDER.get(config.parent.name, 'common')
    if data := next((data for part, data in OTHER_DATA.items() if part in config.name), ''):
        return Match(None, f'the published tables have no scores on {data}')
    try:
        network, task = network_and_task(config, backbone)
    except InputError:
        if recipe != 'quickstart':
            return Match(None, 'the name of the config tells no network')
        network, task = '', ''
    return match_network(network, setting_of(config) or task, recipe)


def match_network(network: str, setting: str, recipe: str = 'common') -> Match:
    """The published row of a network in a task.

    Args:
        network: as in our configs, such as ``'mambaout-tiny'``.
        setting: a key of :data:`SETTINGS`: a task, for its usual head and schedule, or another setting.
        recipe: ``'common'``, ``'native'`` or ``'quickstart'``.
    """
    names = dict(network=network, task=setting, recipe=recipe)
    said = [line for line in _read('configs.csv') if all(fnmatchcase(name, line[key]) for key, name in names.items())]
    model = named_rows('models.csv').get(network.replace('-', '_'))
    if not said and model is None:
        return Match(None, f'{network} is not in mmbackbones/zoo/models.csv')
    remark = said[0]['remark'] if said else ''
    if said and said[0]['family'] == '-':
        return Match(None, remark)
    named = said[0] if said and said[0]['family'] else model or {}
    family, variant = named.get('family', ''), named.get('variant', '')
    row = row_of(setting, family, variant)
    if row is None and not remark:
        remark = _why_no_row(setting, family, variant)
    return Match(row, remark)


def _why_no_row(setting: str, family: str, variant: str) -> str:
    if SETTINGS[setting].head == 'RTMDet-Ins':
        return 'no published RTMDet-Ins has this backbone'
    dense = any(row_of(other, family, variant) for other in SETTINGS if other != 'classification')
    only_imagenet = not dense and row_of('classification', family, variant)
    return 'published for ImageNet only' if only_imagenet else 'not in the published tables'


def network_and_task(config: str | Path, backbone: str | None = None) -> tuple[str, str]:
    """``('mambaout-tiny', 'detection')`` from the name of a config, or of the task and the backbone it was given.

    Raises:
        InputError: the name does not have the form of our configs' names.
    """
    if backbone is not None and Path(config).name.startswith(CLASSIFIER):
        return backbone.replace('_', '-'), 'classification'
    if backbone is not None:
        return backbone.replace('_', '-'), 'detection' if setting_of(config) else 'segmentation'
    found = CONFIG_NAME.fullmatch(Path(config).name)
    if found is not None and found['head'] == CLASSIFIER:
        return found['network'], 'classification'
    if found is None or not (found['detector'] or found['head'] in SEGMENTORS):
        raise InputError(f'{config}: expected a name such as mask-rcnn_NETWORK_fpn_... or NETWORK_upernet_...')
    return found['network'], 'detection' if found['detector'] else 'segmentation'


def setting_of(config: str | Path) -> str | None:
    """The setting of a detector, by the name of its config; None for other names."""
    return next((DETECTORS[form] for form in DETECTORS if fnmatchcase(Path(config).name, form)), None)


def _row(task: str, line: dict[str, str]) -> PublishedRow:
    return PublishedRow(
        task=task,
        family=line['family'],
        variant=line['variant'],
        token_mixer=line['token_mixer'],
        head=line.get('detector') or line.get('segmentor') or '',
        recipe=line[RECIPES[task][0]],
        crop=line.get('crop', ''),
        params=_number(line['params_M']),
        macs=_number(line['macs_G']),
        shape=line['macs_input'],
        metrics={name: float(line[name]) for name in METRICS if line.get(name)},
        pretraining_extras=line['pretraining_extras'],
        augmentation_1x=line.get('augmentation_1x', ''),
        source=line['source'],
        note=line['note'],
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _read(name: str) -> list[dict[str, str]]:
    return read_rows(f'published/{name}')
