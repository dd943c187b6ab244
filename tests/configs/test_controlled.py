"""The controlled experiment: what the arms' names mean, and that two arms differ in nothing but the mixer."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmbackbones.engine.config import ARM_KEY, arm_of_config, config_hash, load_config
from mmbackbones.engine.device import adapt_to_device
from mmbackbones.errors import InputError
from mmbackbones.launch.suite_file import read_suite
from mmbackbones.layers.arms import ARMS, arm_name, spell_out
from tests.configs.test_common_recipe import CONFIGS, flatten

FOLDER = CONFIGS / 'controlled'
MINIATURE = FOLDER / 'miniature'
SHAPES_ADE20K = '1xb8-500_shapes-ade20k-128x128'
BASES = sorted(FOLDER.rglob('*.py'))
GATED = [path for path in BASES if 'gated' in path.name]


def network_of(path):
    return 'GatedMixerNet' if path in GATED else 'IsotropicMixerNet'


def differences(cfg, other):
    ours, theirs = (flatten(one._cfg_dict.to_dict()) for one in (cfg, other))
    return {key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...)}


def test_the_table_of_arms():
    """By hand, so that a slip in the table does not pass."""
    gated = ARMS['GatedMixerNet']
    branches = ('ssm', 'bissm', 'ss2d', 'ss1d-state-fused', 'attn', 'linear-attn', 'ssd-noncausal', 'ttt', 's4nd')
    branches += ('block-state',)
    mixers = (*branches, *(f'pointwise-{name}' for name in branches), 'causal-attn', 'hybrid', 'identity')
    mixers += ('pointwise-macs-block-state', 'bissm-moe', 'bissm-pointwise-moe', 'bissm-pointwise-macs-moe')
    assert gated.keys() == {'none', *(f'{mixer}-{place}' for mixer in mixers for place in ('last2', 'all'))}
    assert gated['none'] == 'none'
    assert gated['ss2d-last2'] == ('none', 'none', 'ss2d', 'ss2d')
    assert gated['pointwise-attn-last2'] == ('none', 'none', 'pointwise:attn', 'pointwise:attn')
    assert gated['causal-attn-all'] == 'causal-attn' and gated['pointwise-ssm-all'] == 'pointwise:ssm'
    assert gated['ssd-noncausal-last2'] == ('none', 'none', 'ssd-noncausal', 'ssd-noncausal')
    assert gated['pointwise-linear-attn-all'] == 'pointwise:linear-attn'
    assert gated['ttt-last2'] == ('none', 'none', 'ttt', 'ttt') and gated['pointwise-ttt-all'] == 'pointwise:ttt'
    assert gated['hybrid-last2'] == ('none', 'none', ('ss2d', 'attn'), ('ss2d', 'attn'))
    assert gated['block-state-last2'] == ('none', 'none', 'block-state', 'block-state')
    assert gated['pointwise-macs-block-state-all'] == 'pointwise-macs:block-state'
    assert gated['bissm-moe-all'] == (('bissm', 'moe'),) * 4
    assert gated['bissm-pointwise-macs-moe-last2'] == ('none', 'none', *(('bissm', 'pointwise-macs:moe'),) * 2)
    assert gated['hybrid-all'] == (('ss2d', 'attn'),) * 4
    assert ARMS['IsotropicMixerNet'] == {
        'attn': 'attn',
        'causal-attn': 'causal-attn',
        'ssm': 'ssm',
        'ssm-reversed': 'ssm-reversed',
        'bissm': 'bissm',
        'pointwise-attn': 'pointwise:attn',
        'pointwise-ssm': 'pointwise:ssm',
        'pointwise-bissm': 'pointwise:bissm',
        's4nd': 's4nd',
        'pointwise-s4nd': 'pointwise:s4nd',
        'ss1d-state-fused': 'ss1d-state-fused',
        'pointwise-ss1d-state-fused': 'pointwise:ss1d-state-fused',
        'linear-attn': 'linear-attn',
        'ssd-noncausal': 'ssd-noncausal',
        'pointwise-linear-attn': 'pointwise:linear-attn',
        'pointwise-ssd-noncausal': 'pointwise:ssd-noncausal',
        'ttt': 'ttt',
        'pointwise-ttt': 'pointwise:ttt',
        'block-state': 'block-state',
        'pointwise-block-state': 'pointwise:block-state',
        'pointwise-macs-block-state': 'pointwise-macs:block-state',
        'bissm-moe': ('bissm', 'moe'),
        'bissm-pointwise-moe': ('bissm', 'pointwise:moe'),
        'bissm-pointwise-macs-moe': ('bissm', 'pointwise-macs:moe'),
    }


def test_names_and_mixers_are_one_to_one():
    for network, arms in ARMS.items():
        assert [arm_name(network, spell_out(network, arm)) for arm in arms] == list(arms)
    # Lists, as the command line gives them.
    assert arm_name('GatedMixerNet', ['none', 'none', 'ss2d', 'ss2d']) == 'ss2d-last2'
    own = ['none', 'none', 'ssm', ['pointwise:ssm', 'attn']]
    assert arm_name('GatedMixerNet', own) == 'none,none,ssm,pointwise-ssm+attn'
    # A stage of one block has the first of those that take turns.
    assert spell_out('GatedMixerNet', 'hybrid-last2', (1, 1, 3, 1)) == ('none', 'none', ('ss2d', 'attn'), 'ss2d')
    assert arm_name('GatedMixerNet', ('none', 'none', ('ss2d', 'attn'), 'ss2d'), (1, 1, 3, 1)) == 'hybrid-last2'


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_nothing_but_the_mixer_differs(path):
    base = load_config(path)
    network = network_of(path)
    assert base.model.backbone.type == f'mmbackbones.{network}'
    assert arm_of_config(base) == ('none' if path in GATED else 'attn')
    for arm in [arm for arm in ARMS[network] if arm != arm_of_config(base)]:
        cfg = load_config(path, {ARM_KEY: arm})
        assert differences(cfg, base) == {'model.backbone.mixers'}
        assert arm_of_config(cfg) == arm
        depths = (1, 1, 3, 1) if path.parent == MINIATURE else None
        assert cfg.model.backbone.mixers == spell_out(network, arm, depths)


def test_an_arm_has_one_identity():
    path = MINIATURE / f'gated-mini_upernet_{SHAPES_ADE20K}.py'
    by_name, in_full = (load_config(path, {ARM_KEY: arm}) for arm in ('ssm-last2', ('none', 'none', 'ssm', 'ssm')))
    assert config_hash(by_name) == config_hash(in_full) != config_hash(load_config(path))


def test_an_unknown_arm_is_refused():
    cfg = load_config(MINIATURE / f'gated-mini_upernet_{SHAPES_ADE20K}.py', {ARM_KEY: 'ss2d-lst2'})
    with pytest.raises(InputError, match=r"mixers='ss2d-lst2' unknown; known: .*ss2d-last2"):
        MODELS.build(cfg.model.backbone)


@pytest.mark.parametrize(('suite', 'folder'), [('controlled', FOLDER), ('controlled_miniature', MINIATURE)])
def test_the_suites_train_every_arm_of_every_base(suite, folder):
    trainings = read_suite(CONFIGS / 'suites' / f'{suite}.yaml').trainings
    found = {}
    for training in trainings:
        found.setdefault(CONFIGS.parent / training.config, []).append(training.arm)
    assert found.keys() == set(folder.glob('*.py'))
    for path, arms in found.items():
        wanted = [arm for arm in ARMS[network_of(path)] if folder == FOLDER or not arm.endswith('-all')]
        assert sorted(arms) == sorted(wanted)


def mambaouts_file(path):
    """The config of MambaOut that a base changes in its type and mixers, or the zoo's miniature in the quickstart."""
    if path.parent == MINIATURE:
        name = path.name.replace('gated-mini_fpn_', '').replace('gated-mini_upernet', 'upernet')
        return CONFIGS / 'quickstart' / name
    return CONFIGS / 'mambaout' / path.name.replace('gated', 'mambaout')


@pytest.mark.parametrize('path', GATED, ids=lambda path: path.stem)
def test_the_arm_without_a_mixer_is_mambaouts_config(path):
    if 'fcn' in path.stem:
        source = path.with_name(path.name.replace('fcn-1x1', 'upernet'))
        changed = {'.'.join(key.split('.')[:2]) for key in differences(*map(Config.fromfile, (path, source)))}
        assert changed == {'model.decode_head', 'model.auxiliary_head'}
    else:
        assert differences(*map(Config.fromfile, (path, mambaouts_file(path)))) == {
            'model.backbone.type',
            'model.backbone.mixers',
        }


@pytest.mark.parametrize(
    ('path', 'arm'),
    [
        (path, arm)
        for path in BASES
        for arm in ARMS[network_of(path)]
        if arm == 'none' or arm.startswith('hybrid') or arm.endswith('attn')
    ],
    ids=lambda value: getattr(value, 'stem', value),
)
def test_channels_fit_the_backbone(path, arm):
    cfg = load_config(path, {ARM_KEY: arm})
    with torch.device('meta'):
        channels = list(MODELS.build({**cfg.model.backbone, 'init_cfg': None}).out_channels)
    head = cfg.model.neck if 'neck' in cfg.model and cfg.model.neck else cfg.model.decode_head
    assert channels == head.in_channels
    if head.get('type') == 'FCNHead':
        assert head.channels == sum(channels)


def segmentor(name, arm):
    cfg = load_config(MINIATURE / f'{name}_{SHAPES_ADE20K}.py', {ARM_KEY: arm})
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
    """63 px of five 3x3 steps to stride 32, and the 32 px between two places that resizing to stride 4 blends.

    The arm has no depthwise convolution: nothing but 3x3 steps to coarser maps.
    """
    places = reached(segmentor('gated-mini_fcn-1x1', 'identity-all'))
    assert (places.amax(0) - places.amin(0) + 1).tolist() == [63 + 32] * 2
    assert len(reached(segmentor('gated-mini_upernet', 'identity-all'))) > 0.99 * 256**2


def test_isotropic_segmentor_is_causal_through_the_head():
    """One stride, so nothing is resized within the head, and the logits of a patch depend on those before it alone."""
    patches = reached(segmentor('isotropic-mini_fcn-1x1', 'causal-attn'), side=128) // 8
    seen = set((16 * patches[:, 0] + patches[:, 1]).tolist())
    assert seen == set(range(8 * 16 + 8 + 1))
    assert len(reached(segmentor('isotropic-mini_fcn-1x1', 'attn'), side=128)) > 0.99 * 128**2
