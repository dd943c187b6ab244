"""The controlled experiment: the files are all arms and no other, and two of a kind differ in nothing but the mixer."""

import itertools
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmbackbones.engine.device import adapt_to_device
from tests.configs.test_common_recipe import CONFIGS, flatten

FOLDER = CONFIGS / 'controlled'
MINIATURE = FOLDER / 'miniature'
BRANCHES = ('ssm', 'bissm', 'ss2d', 'attn', 'causal-attn')
CONTROLS = tuple(f'pointwise-{name}' for name in BRANCHES[:-1])  # causal attention has full attention's parameters
MIXERS = (*BRANCHES, *CONTROLS, 'hybrid', 'identity')
ARMS = ('none', *(f'{mixer}-{place}' for mixer in MIXERS for place in ('last2', 'all')))
ISOTROPIC = (
    'attn',
    'causal-attn',
    'ssm',
    'ssm-reversed',
    'bissm',
    'pointwise-attn',
    'pointwise-ssm',
    'pointwise-bissm',
)
ADE20K, COCO = '8xb2-amp-160k_ade20k-512x512', '8xb2-amp-1x_coco'
SHAPES_ADE20K, SHAPES_COCO = '1xb8-500_shapes-ade20k-128x128', '1xb4-300_shapes-coco'
LAST_TWO = [arm for arm in ARMS if not arm.endswith('-all')]
NAME = re.compile(r'(?:mask-rcnn_)?(gated|isotropic)-(tiny|small|mini)-([a-z0-9-]+)_(fpn|upernet|fcn-1x1)_.*')


def names(sizes, arms, ade20k, coco):
    for size, arm in itertools.product(sizes, arms):
        yield f'gated-{size}-{arm}_upernet_{ade20k}'
        yield f'gated-{size}-{arm}_fcn-1x1_{ade20k}'
        yield f'mask-rcnn_gated-{size}-{arm}_fpn_{coco}'


FULL = [
    *names(('tiny', 'small'), ARMS, ADE20K, COCO),
    *(f'isotropic-{size}-{arm}_fcn-1x1_{ADE20K}' for size in ('tiny', 'small') for arm in ISOTROPIC),
]
MINI = [
    *names(('mini',), LAST_TWO, SHAPES_ADE20K, SHAPES_COCO),
    *(f'isotropic-mini-{arm}_fcn-1x1_{SHAPES_ADE20K}' for arm in ISOTROPIC),
]
PATHS = [FOLDER / f'{name}.py' for name in FULL] + [MINIATURE / f'{name}.py' for name in MINI]


def mixers_of(arm, size):
    """What the name of a hierarchical arm says."""
    if arm == 'none':
        return 'none'
    mixer, place = arm.rsplit('-', 1)
    mixer = ('ss2d', 'attn') if mixer == 'hybrid' else mixer.replace('pointwise-', 'pointwise:')
    last = 'ss2d' if arm.startswith('hybrid') and size == 'mini' else mixer  # its last stage has one block
    if place == 'last2':
        return ('none', 'none', mixer, last)
    return (mixer,) * 4 if arm.startswith('hybrid') else mixer


def differences(cfg, other):
    ours, theirs = (flatten(one._cfg_dict.to_dict()) for one in (cfg, other))
    return {key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...)}


def test_the_files_are_all_arms_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob('*.py')) == sorted(FULL)
    assert sorted(path.stem for path in MINIATURE.glob('*.py')) == sorted(MINI)


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_nothing_but_the_mixer_differs(path):
    kind, size, arm, _ = NAME.fullmatch(path.stem).groups()
    cfg = Config.fromfile(path)
    wanted = mixers_of(arm, size) if kind == 'gated' else arm.replace('pointwise-', 'pointwise:')
    assert cfg.model.backbone.mixers == wanted
    first = 'none' if kind == 'gated' else 'attn'
    rest = Config.fromfile(path.with_name(path.name.replace(f'-{arm}_', f'-{first}_')))
    assert differences(cfg, rest) <= {'model.backbone.mixers'}


@pytest.mark.parametrize(
    ('folder', 'size', 'base'),
    [(FOLDER, 'tiny', 'mambaout'), (FOLDER, 'small', 'mambaout'), (MINIATURE, 'mini', 'quickstart')],
)
def test_the_arm_without_a_mixer_is_mambaouts_config(folder, size, base):
    for path in folder.glob(f'*gated-{size}-none_*.py'):
        if 'fcn' in path.stem:
            source = path.with_name(path.name.replace('fcn-1x1', 'upernet'))
            changed = {'.'.join(key.split('.')[:2]) for key in differences(*map(Config.fromfile, (path, source)))}
            assert changed == {'model.decode_head', 'model.auxiliary_head'}
        else:
            source = CONFIGS / base / path.name.replace(f'gated-{size}-none', f'mambaout-{size}')
            assert differences(*map(Config.fromfile, (path, source))) == {
                'model.backbone.type',
                'model.backbone.mixers',
            }


@pytest.mark.parametrize(
    'path',
    [path for path in PATHS if re.search('(none|hybrid-all|hybrid-last2|-attn)_', path.stem)],
    ids=lambda p: p.stem,
)
def test_channels_fit_the_backbone(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        channels = list(MODELS.build({**cfg.model.backbone, 'init_cfg': None}).out_channels)
    head = cfg.model.neck if 'neck' in cfg.model and cfg.model.neck else cfg.model.decode_head
    assert channels == head.in_channels
    if head.get('type') == 'FCNHead':
        assert head.channels == sum(channels)


def segmentor(name):
    cfg = Config.fromfile(MINIATURE / f'{name}_{SHAPES_ADE20K}.py')
    if name.startswith('gated'):
        cfg.model.backbone.mixers = 'identity'  # no depthwise convolution: nothing but 3x3 steps to coarser maps
    adapt_to_device(cfg, 'none')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg.model).eval()


def reached(model, side=256):
    """Pixels of the image that the logits at one place depend on, as rows and columns."""
    x = torch.randn(1, 3, side, side, requires_grad=True)
    logits = model.decode_head(model.extract_feat(x))
    centre = logits.shape[-1] // 2
    logits[..., centre, centre].sum().backward()
    return x.grad[0].abs().sum(0).nonzero()


def test_context_free_head_reaches_no_further_than_the_backbone():
    """63 px of five 3x3 steps to stride 32, and the 32 px between two places that resizing to stride 4 blends."""
    places = reached(segmentor('gated-mini-none_fcn-1x1'))
    assert (places.amax(0) - places.amin(0) + 1).tolist() == [63 + 32] * 2
    assert len(reached(segmentor('gated-mini-none_upernet'))) > 0.99 * 256**2


def test_isotropic_segmentor_is_causal_through_the_head():
    """One stride, so nothing is resized within the head, and the logits of a patch depend on those before it alone."""
    patches = reached(segmentor('isotropic-mini-causal-attn_fcn-1x1'), side=128) // 8
    seen = set((16 * patches[:, 0] + patches[:, 1]).tolist())
    assert seen == set(range(8 * 16 + 8 + 1))
    assert len(reached(segmentor('isotropic-mini-attn_fcn-1x1'), side=128)) > 0.99 * 128**2
