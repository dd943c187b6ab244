"""``--backbone NAME``: replace the backbone of a config, and every setting that depends on its maps.

The result equals the config file of that backbone. Options, drop path and weights come from the zoo, channels and
strides from the registered class. A classifier gets its authors' head. The maps of a plain backbone have one stride, so
it gets a neck that makes a pyramid: SimpleFeaturePyramid in a detector, mmseg's Feature2Pyramid before UperNet. A
one-stage detector keeps its own neck behind that pyramid; it reads the maps from stride 8 on.
"""

import functools

from mmengine.config import Config, ConfigDict

from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of
from mmbackbones.zoo.create import shape_only
from mmbackbones.zoo.models import arch_and_options, backbone_config

STRIDES = (4, 8, 16, 32)  # of the maps that the heads of both tasks read
PYRAMID = 'mmbackbones.SimpleFeaturePyramid'
DETECTOR_NECKS = ('FPN', PYRAMID)
ONE_STAGE_NECKS = {'CSPNeXtPAFPN': (8, 16, 32)}  # and the strides of the maps that they read
SEGMENTOR_NECKS = (None, 'Feature2Pyramid')
SEGMENTOR_HEADS = ('UPerHead', 'FCNHead')
CLASSIFIER_HEAD = 'mmbackbones.ClsHead'


def swap_backbone(cfg: Config, name: str) -> None:
    """Replace the backbone of ``cfg``, in place.

    Args:
        cfg: a detector with FPN, a simple pyramid or RTMDet's neck, a segmentor with UperNet or a context-free FCN
            head, or a classifier with ``mmbackbones.ClsHead``. It may have no backbone, like the configs in
            ``configs/tasks``.
        name: a model of the zoo.

    Raises:
        InputError: unknown name, a recipe of the authors, or an unsupported neck or head.
    """
    if cfg.get('recipe') == 'native':
        raise InputError(
            f'--backbone {name}: {cfg.filename} is the recipe of one network by its authors; expected a config of '
            'the common recipe, such as one of configs/tasks'
        )
    task = task_of(cfg)
    channels, strides, indices = _maps(name, task)
    if strides != STRIDES and len(set(strides)) > 1:
        raise InputError(f'--backbone {name}: its maps have the strides {strides}, expected {STRIDES} or equal ones')
    left_out = FITS[task](cfg.model, name, list(channels), strides)
    if left_out and len(indices) != len(channels):
        raise InputError(f'--backbone {name}: returns {len(channels)} maps in any case; model.neck reads fewer')
    options = dict(out_indices=indices[left_out:]) if left_out else {}
    cfg.model['backbone'] = ConfigDict(backbone_config(name, task), **options)


def _fit_classifier(model: ConfigDict, name: str, channels: list[int], strides: tuple[int, ...]) -> int:
    if model.head.type != CLASSIFIER_HEAD:
        raise InputError(f'--backbone {name}: model.head.type={model.head.type}, expected {CLASSIFIER_HEAD}')
    kind, arch, _ = arch_and_options(name, 'classification')
    model.head.update(family=kind, in_channels=channels[-1], arch=arch if kind == 'TimmBackbone' else None)
    return 0


@functools.cache
def _maps(name: str, task: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of a backbone's maps, and its ``out_indices``."""
    try:
        backbone = shape_only(name, task)
    except TypeError as error:  # its class does not take an option of the task
        raise InputError(f'--backbone {name}: {error}') from error
    return backbone.out_channels, backbone.out_strides, backbone.out_indices


def _scales(stride: int, wanted: tuple[int, ...] = STRIDES) -> list[float]:
    """Scales that turn maps of one stride into a pyramid."""
    return [stride // other if stride % other == 0 else stride / other for other in wanted]


def _fit_detector(model: ConfigDict, name: str, channels: list[int], strides: tuple[int, ...]) -> int:
    """Fit the neck, and return how many of the first maps it does not read."""
    necks = model.get('neck') or ConfigDict(type=None)
    neck = necks[-1] if isinstance(necks, list) else necks
    before = [each.type for each in necks[:-1]] if isinstance(necks, list) else []
    if neck.type in ONE_STAGE_NECKS and before in ([], [PYRAMID]):
        return _fit_one_stage(model, neck, channels, strides)
    if isinstance(necks, list):
        raise InputError(f'--backbone {name}: model.neck is a list of {len(necks)} necks, expected one')
    if neck.type not in DETECTOR_NECKS:
        known = [*DETECTOR_NECKS, *ONE_STAGE_NECKS]
        raise InputError(f'--backbone {name}: model.neck.type={neck.type}, expected {" or ".join(known)}')
    if strides != STRIDES and (neck.get('start_level') or neck.get('add_extra_convs')):
        raise InputError(
            f'--backbone {name}: its maps have one stride, and model.neck leaves out or adds levels (start_level, '
            'add_extra_convs), which a simple pyramid cannot; expected a network with the strides 4, 8, 16 and 32'
        )
    if strides == STRIDES and neck.type == 'FPN':
        neck['in_channels'] = channels
        return 0
    shared = dict(out_channels=neck.out_channels, num_outs=neck.num_outs)
    norm_cfg = neck.get('norm_cfg')
    if strides == STRIDES:
        norm = {} if norm_cfg is None else dict(norm_cfg=norm_cfg)
        model['neck'] = ConfigDict(type='FPN', in_channels=channels, **shared, **norm)
    else:
        model['neck'] = ConfigDict(
            type=PYRAMID, in_channels=channels[0], scales=tuple(_scales(strides[0])), norm_cfg=norm_cfg, **shared
        )
    return 0


def _fit_one_stage(model: ConfigDict, neck: ConfigDict, channels: list[int], strides: tuple[int, ...]) -> int:
    """The same for a neck that reads fewer maps than the backbone has."""
    wanted = ONE_STAGE_NECKS[neck.type]
    if strides == STRIDES:
        first = STRIDES.index(wanted[0])
        neck['in_channels'] = channels[first:]
        model['neck'] = neck
        return first
    pyramid = ConfigDict(
        type=PYRAMID,
        in_channels=channels[0],
        out_channels=neck.out_channels,
        scales=tuple(_scales(strides[0], wanted)),
        num_outs=len(wanted),
        norm_cfg=None,
    )
    neck['in_channels'] = [neck.out_channels] * len(wanted)
    model['neck'] = [pyramid, neck]
    return 0


def _fit_segmentor(model: ConfigDict, name: str, channels: list[int], strides: tuple[int, ...]) -> int:
    head, neck = model.decode_head, (model.get('neck') or {}).get('type')
    if isinstance(head, list):
        raise InputError(f'--backbone {name}: model.decode_head is a list of {len(head)} heads, expected one')
    if neck not in SEGMENTOR_NECKS:
        raise InputError(f'--backbone {name}: model.neck.type={neck}, expected none or Feature2Pyramid')
    if head.type not in SEGMENTOR_HEADS:
        raise InputError(f'--backbone {name}: model.decode_head.type={head.type}, expected UPerHead or FCNHead')
    auxiliary = model.get('auxiliary_head') or []
    for place, other in enumerate(auxiliary if isinstance(auxiliary, list) else [auxiliary]):
        if not isinstance(other.in_index, int):
            raise InputError(f'--backbone {name}: model.auxiliary_head.{place}.in_index={other.in_index}, expected one')
        other['in_channels'] = channels[other.in_index]
    model.pop('neck', None)
    head['in_channels'] = channels
    if head.type == 'FCNHead':  # one 1x1 convolution over the maps side by side, whatever their strides
        head['channels'] = sum(channels)
    elif strides != STRIDES:
        model['neck'] = ConfigDict(
            type='Feature2Pyramid', embed_dim=channels[0], rescales=_scales(strides[0]), norm_cfg=head.norm_cfg
        )
    return 0


FITS = {'detection': _fit_detector, 'segmentation': _fit_segmentor, 'classification': _fit_classifier}
