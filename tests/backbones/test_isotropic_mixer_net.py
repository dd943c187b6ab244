"""IsotropicMixerNet: the whole net sees what its mixer sees, and nothing more."""

import pytest
import torch
from torch import nn

from mmbackbones.analysis.complexity.count import count_module
from mmbackbones.backbones import IsotropicMixerNet
from mmbackbones.errors import InputError
from mmbackbones.layers.mixer_names import BRANCHES, POINTWISE, POINTWISE_MACS

TINY = dict(embed_dims=16, depth=3)
ROWS, COLUMNS = 3, 4
CHANGED = 5
REACH = {
    'ssm': set(range(CHANGED, 12)),
    'ssm-reversed': set(range(CHANGED + 1)),
    'bissm': set(range(12)),
    'ss2d': set(range(12)),
    'ss1d-state-fused': set(range(12)),
    'attn': set(range(12)),
    'causal-attn': set(range(CHANGED, 12)),
    's4nd': set(range(12)),
    'linear-attn': set(range(12)),
    'ssd-noncausal': set(range(12)),
    'ttt': set(range(12)),
    'block-state': set(range(12)),
    'moe': {CHANGED},
    'none': {CHANGED},
    **{name: {CHANGED} for name in POINTWISE + POINTWISE_MACS},
}


def build(**options):
    torch.manual_seed(0)
    return IsotropicMixerNet(**{'arch': TINY, 'out_indices': (0, 2), **options}).eval()


@pytest.mark.parametrize('position', [True, False], ids=['position', 'no position'])
@pytest.mark.parametrize('mixer', BRANCHES)
def test_who_sees_whom(mixer, position):
    """A change within one patch reaches exactly the outputs of the whole net that the mixer lets it reach."""
    model = build(mixers=mixer, position=position)
    x = torch.randn(1, 3, 16 * ROWS, 16 * COLUMNS, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[..., 16:32, 16:32] += 1
    with torch.no_grad():
        for one, other in zip(model(changed), model(x)):
            moved = (one != other).any(1).flatten().nonzero().flatten().tolist()
            assert set(moved) == REACH[mixer]


def test_no_convolution_but_the_patches():
    model = build(mixers=tuple(BRANCHES[:3]))
    assert [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Conv1d)] == [
        'patch_embed.proj'
    ]


def test_position_table_is_an_option():
    x = torch.randn(1, 3, 48, 64)
    learned, bare = build(mixers='attn'), build(mixers='attn', position=False)
    assert 'pos_embed' in dict(learned.named_parameters())
    assert 'pos_embed' not in bare.state_dict() and 'pos_embed' not in dict(bare.named_parameters())
    learned.pos_embed.data.zero_()
    with torch.no_grad():
        for one, other in zip(learned(x), bare(x)):
            assert torch.equal(one, other)
    assert bare.train() is bare and build(mixers='attn', position=False, frozen_stages=1)


def test_arms_of_a_seed_share_patches_projections_and_what_follows():
    models = []
    for mixers in ('attn', 'ss2d', ('none', 'ssm')):
        models.append((build(mixers=mixers).state_dict(), torch.rand(3)))
    (first, after), *others = models
    for state, follows in others:
        shared = [key for key in first if '.branch.' not in key]
        assert shared and all(torch.equal(state[key], first[key]) for key in shared)
        assert torch.equal(after, follows)


def test_mixers_take_turns():
    names = [type(layer.mixer.branch.mixer).__name__ for layer in build(mixers=('attn', 'ssm')).layers]
    assert names == ['Attention', 'ScanMixer', 'Attention']


def test_scan_parameters_do_not_decay():
    model = build(mixers=('ssm', 'attn', 'none'))
    assert model.no_weight_decay() == {
        'pos_embed',
        'layers.0.mixer.branch.mixer.A_logs',
        'layers.0.mixer.branch.mixer.Ds',
    }


@pytest.mark.parametrize(('arch', 'dim'), [('tiny', 192), ('small', 384)])
def test_presets(arch, dim):
    """24 blocks of LayerNorm, MambaOut's 8/3 and attention's four square matrices, and what stands around them."""
    with torch.device('meta'):
        model = IsotropicMixerNet(arch=arch, mixers='attn', out_indices=(23,))
    hidden = 8 * dim // 3
    block = 2 * dim + 3 * dim * hidden + 2 * hidden + dim + 4 * dim**2
    assert sum(p.numel() for p in model.parameters()) == 24 * block + (3 * 16**2 + 1 + 14**2 + 2) * dim
    model.to_empty(device='cpu')
    macs = count_module(model.eval(), torch.empty(1, 3, 224, 224, device='meta')).macs['Global']
    del macs['aten.native_layer_norm']
    tokens = 14**2
    assert sum(macs.values()) - macs['aten.upsample_bicubic2d'] == tokens * dim * (
        24 * (3 * hidden + 4 * dim + 2 * tokens) + 3 * 16**2
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mixers='mamba'), "mixers: 'mamba' unknown; known: ssm, "),
        (dict(mixers='identity'), "mixers: 'identity' unknown"),
        (dict(mixers=()), r'mixers: \(\), expected a name or 1 to 3 names for its 3 blocks'),
        (dict(mixers=('ssm',) * 4), 'expected a name or 1 to 3 names'),
        (dict(mixers=7), 'mixers: 7, expected a name'),
        (dict(arch=dict(TINY, expansion_ratio=0.5)), 'expansion_ratio=0.5, expected 1 or more'),
        (dict(arch=dict(TINY, d_state=4)), "unknown keys 'd_state'"),
        (dict(arch='huge'), "unknown arch 'huge'; known: tiny, small"),
        (dict(mixers='attn', head_width=5), 'head_width=5, expected a divisor of the 16 channels'),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message) as error:
        build(**options)
    assert '\n' not in str(error.value)
