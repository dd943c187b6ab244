"""GatedMixerNet: every arm starts as MambaOut to the last bit, and differs from it in its token mixer alone."""

import json
import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from timm.models.mambaout import GatedConvBlock
from torch import nn

from mmbackbones.analysis.complexity.count import PUBLISHED_RULE, SCAN_RULES, count_module
from mmbackbones.backbones import GatedMixerNet, MambaOut
from mmbackbones.backbones.gated_mixer_net import MIXERS, MixedConv, mixer_cost, resolve_mixers
from mmbackbones.errors import InputError
from tests.conftest import golden_tensors

ARMS = [name for name in MIXERS if name not in ('none', 'identity') and not name.startswith('pointwise')] + [
    'pointwise:ss2d',
    'pointwise:attn',
]
HYBRID = ('none', 'pointwise:ssm', ('ss2d', 'attn'), 'causal-attn')
SMALL = dict(depths=(1, 1, 3, 1), dims=(8, 12, 16, 24))
LAST_TWO = ('none', 'none')


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """A classifier of the authors' code in their layout: file, architecture, image."""
    tensors, metadata = golden_tensors('mambaout_small_nonsquare.safetensors')
    kwargs = json.loads(metadata['kwargs'])
    path = tmp_path_factory.mktemp('weights') / 'official.pth'
    weights = {key.removeprefix('state_dict.'): x for key, x in tensors.items() if key.startswith('state_dict.')}
    torch.save(weights, path)
    return str(path), dict(depths=kwargs['depths'], dims=kwargs['dims']), tensors['x']


def load(cls, official, **options):
    path, arch, _ = official
    model = cls(arch=arch, init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=path), **options)
    model.init_weights()
    return model


def run(model, x):
    torch.manual_seed(5)  # of stochastic depth
    with torch.no_grad():
        return model(x)


def open_gates(model):
    for module in model.modules():
        if isinstance(module, MixedConv):
            module.gate.data.fill_(0.1)


@pytest.mark.parametrize('mixers', [*ARMS, 'none', HYBRID], ids=str)
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_every_arm_starts_as_mambaout(official, mixers, training):
    x = official[2]
    plain = load(MambaOut, official, drop_path_rate=0.5).train(training)
    mixed = load(GatedMixerNet, official, drop_path_rate=0.5, mixers=mixers).train(training)
    expected = run(plain, x)
    for one, other in zip(run(mixed, x), expected):
        assert torch.equal(one, other)
    if mixers != 'none':
        open_gates(mixed)
        assert max((one - other).abs().max() for one, other in zip(run(mixed, x), expected)) > 1e-3


def test_gradients_start_as_mambaouts_too(official):
    """So that the first step moves the shared weights of every arm alike, and the gates besides."""
    plain, mixed = (
        load(cls, official, **options) for cls, options in ((MambaOut, {}), (GatedMixerNet, dict(mixers=HYBRID)))
    )
    for model in (plain, mixed):
        sum(out.square().mean() for out in model(official[2])).backward()
    gradients = dict(mixed.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, msg=f'{name}: '.__add__)
    own = {name: p.grad for name, p in gradients.items() if name not in dict(plain.named_parameters())}
    assert own and all((grad.abs().max() > 0) == name.endswith('.gate') for name, grad in own.items())


def test_mixer_formula():
    torch.manual_seed(0)
    model = GatedMixerNet(arch=SMALL, mixers='ss2d')
    conv = model.stages[1].blocks[0].conv
    conv.gate.data.normal_()
    plain = nn.Conv2d(12, 12, 7, padding=3, groups=12)
    plain.load_state_dict({'weight': conv.weight, 'bias': conv.bias})
    x = torch.randn(2, 12, 5, 6)
    c = plain(x)
    branch = conv.branch(c.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(conv(x), c + conv.gate[None, :, None, None] * branch)


def test_identity_takes_the_convolution_out(official):
    x = official[2]
    model = load(GatedMixerNet, official, mixers=('none', 'identity', ('none', 'identity'), 'none'))
    names = [[type(block.conv).__name__ for block in stage.blocks] for stage in model.stages]
    assert names == [['Conv2d'], ['Identity'] * 2, ['Conv2d', 'Identity', 'Conv2d'], ['Conv2d']]
    plain = load(MambaOut, official)
    for prefix in ('stages.1.blocks.0', 'stages.1.blocks.1', 'stages.2.blocks.1'):
        conv = plain.get_submodule(prefix).conv
        conv.weight.data.zero_()
        conv.weight.data[..., 3, 3] = 1
        conv.bias.data.zero_()
    for one, other in zip(run(model, x), run(plain, x)):
        torch.testing.assert_close(one, other)


def test_loading_names_what_is_fresh_and_refuses_the_rest(official, monkeypatch):
    # Looking up what a wrong file holds takes its time and has its own test.
    monkeypatch.setattr('mmbackbones.engine.pretrained.both_names', lambda *_: '')
    path, arch, _ = official
    model = load(GatedMixerNet, official, mixers=HYBRID)
    mixed = (
        'stages.1.blocks.0',
        'stages.1.blocks.1',
        'stages.2.blocks.0',
        'stages.2.blocks.1',
        'stages.2.blocks.2',
        'stages.3.blocks.0',
    )
    assert model.allowed_missing == (
        'outnorm',
        *(f'{block}.conv.{part}' for block in mixed for part in ('gate', 'branch.')),
    )
    weights = torch.load(path)
    key = 'stages.2.1.conv.weight'
    with pytest.raises(InputError, match=re.escape('missing 1: stages.2.blocks.1.conv.weight')):
        torch.save({name: value for name, value in weights.items() if name != key}, path + '.cut')
        load(GatedMixerNet, (path + '.cut', arch, None), mixers=HYBRID)
    with pytest.raises(InputError, match='does not fit GatedMixerNet'):  # its widths are not MambaOut's
        load(GatedMixerNet, official, mixers=HYBRID, equal='params')


@pytest.mark.parametrize('size', ['femto', 'kobe', 'tiny', 'small', 'base'])
def test_published_sizes_take_mambaouts_keys(size):
    with torch.device('meta'):
        plain, mixed = MambaOut(arch=size), GatedMixerNet(arch=size, mixers=HYBRID)
    own = {key: value.shape for key, value in mixed.state_dict().items()}
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: shape for key, shape in own.items() if not key.startswith(mixed.allowed_missing[1:])
    }
    assert all(isinstance(block, GatedConvBlock) for stage in mixed.stages for block in stage.blocks)


@pytest.mark.parametrize('mixers', [*ARMS, 'identity', HYBRID], ids=str)
def test_arms_of_a_seed_draw_the_same_numbers(mixers):
    """Trunk, output norms, and whatever is drawn after the backbone."""
    torch.manual_seed(3)
    plain, after = MambaOut(arch=SMALL), torch.rand(3)
    torch.manual_seed(3)
    mixed, mixed_after = GatedMixerNet(arch=SMALL, mixers=mixers), torch.rand(3)
    assert torch.equal(after, mixed_after)
    own = mixed.state_dict()
    for name, value in plain.state_dict().items():
        if mixers != 'identity' or '.conv.' not in name or 'downsample' in name:
            assert torch.equal(own[name], value), name


def test_gates_and_scan_parameters_do_not_decay():
    model = nn.Module()
    model.backbone = GatedMixerNet(arch=SMALL, mixers=HYBRID)
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmbackbones.OptimWrapperConstructor', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05)
        ),
    )
    decay = {
        parameter: group['weight_decay'] for group in wrapper.optimizer.param_groups for parameter in group['params']
    }
    decays = {name: decay[parameter] for name, parameter in model.named_parameters()}
    gates = [name for name in decays if name.endswith('.conv.gate')]
    scans = [name for name in decays if name.endswith(('.A_logs', '.Ds'))]
    assert len(gates) == 5 and len(scans) == 4
    assert {decays[name] for name in gates + scans} == {0}
    assert {value for name, value in decays.items() if '.branch.' in name and name not in scans} == {0.05}


def test_state_space_kernels_do_not_decay():
    model = GatedMixerNet(arch=SMALL, mixers=('none', 'none', 'none', 's4nd'))
    kernels = {f'{axis}.{name}' for axis in ('rows', 'columns') for name in ('A_log', 'A_imag', 'log_dt')}
    prefix = 'stages.3.blocks.0.conv.'
    wanted = {f'{prefix}gate', *(f'{prefix}branch.mixer.{name}' for name in {'D', *kernels})}
    assert {name for name in model.no_weight_decay() if name.startswith(prefix)} == wanted


def test_interleaving():
    assert resolve_mixers('ssm', (1, 2)) == (('ssm',), ('ssm', 'ssm'))
    assert resolve_mixers(('none', ['ss2d', 'attn']), (2, 5)) == (
        ('none', 'none'),
        ('ss2d', 'attn', 'ss2d', 'attn', 'ss2d'),
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mixers=('ssm', 'attn')), r"mixers=\('ssm', 'attn'\), expected one name or 4 entries, one per stage"),
        (dict(mixers=None), 'mixers=None, expected one name or 4 entries'),
        (
            dict(mixers=('none', 'none', ('ssm',) * 4, 'none')),
            'mixers of stage 3: .*, expected a name or 1 to 3 names',
        ),
        (dict(mixers=('none', (), 'none', 'none')), r'mixers of stage 2: \(\), expected a name or 1 to 1 names'),
        (dict(mixers=('none', 3, 'none', 'none')), 'mixers of stage 2: 3, expected a name'),
        (dict(mixers=('none', 'none', 'none', 'mamba')), "mixers of stage 4: 'mamba' unknown; known: ssm, .*identity"),
        (dict(mixers=('none', 'none', 'none', [['ssm']])), r"mixers of stage 4: \['ssm'\] unknown"),
        (dict(mixers='pointwise'), "'pointwise' unknown; known: .*pointwise:ss2d"),
        (dict(mixers='attn', head_width=5), 'head_width=5, expected a divisor of the 8 channels'),
        (dict(equal='size'), "equal='size', expected one of params, macs, or None"),
        (dict(arch='base_plus_rw', equal='params'), "equal='params' is for arch femto, .*not 'base_plus_rw'"),
        (dict(arch='tiny', mixers='attn', equal='macs'), "mixers='attn' cost more than the blocks can give up"),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\)'),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message) as error:
        GatedMixerNet(**{'arch': SMALL, **options})
    assert '\n' not in str(error.value)


def build_empty(arch, mixers, equal=None):
    with torch.device('meta'):
        return GatedMixerNet(arch=arch, mixers=mixers, equal=equal, norm_cfg=None).eval()


def count_params(model):
    return sum(p.numel() for p in model.parameters())


def count_macs(model):
    """Of the mixers and the linear layers of the blocks, at 224x224 px; the rest is the same in all arms."""
    macs = 0
    for i, (stage, names) in enumerate(zip(model.stages, model.mixers)):
        side = 56 >> i
        for block, name in zip(stage.blocks, names):
            dim, hidden = block.fc2.out_features, block.fc2.in_features
            macs += 3 * dim * hidden * side**2 + mixer_cost(name, dim, side, side).macs
    return macs


def rest_of_macs(model):
    count = count_module(model.to_empty(device='cpu'), torch.empty(1, 3, 224, 224, device='meta'))
    macs = count.macs['Global']
    scans = sum(elements * SCAN_RULES[PUBLISHED_RULE](state) for state, elements in count.scans.items())
    return sum(macs.values()) - macs['aten.native_layer_norm'] - scans / 2 - count_macs(model)


@pytest.fixture(scope='module')
def mambaout_sizes():
    sizes = {}
    for arch in ('tiny', 'small'):
        model = build_empty(arch, 'none')
        sizes[arch] = count_params(model), count_macs(model), rest_of_macs(model)
    return sizes


@pytest.mark.parametrize(
    ('mixers', 'equal'),
    [('ss2d', None), (('identity', 'pointwise:ss2d', ('bissm', 'attn'), 'causal-attn'), 'macs')],
    ids=str,
)
def test_macs_as_the_tables_count_them(mambaout_sizes, mixers, equal):
    assert rest_of_macs(build_empty('tiny', mixers, equal)) == mambaout_sizes['tiny'][2]


@pytest.mark.parametrize(
    ('arch', 'mixers'),
    [
        *(('tiny', name) for name in ('ssm', 'bissm', 'ss2d', 'attn', 'pointwise:ss2d', 'pointwise:attn', 'identity')),
        ('tiny', 'block-state'),
        ('small', 'ss2d'),
        ('small', 'attn'),
    ],
)
@pytest.mark.parametrize('everywhere', [False, True], ids=['last two', 'everywhere'])
def test_equal_parameters_and_macs(mambaout_sizes, arch, mixers, everywhere):
    """Both to within 1 % of MambaOut's, where that is possible; without it every arm costs what its mixers do."""
    spec = mixers if everywhere else LAST_TWO + (mixers, mixers)
    params, macs, rest = mambaout_sizes[arch]
    depths = (3, 3, 9, 3) if arch == 'tiny' else (3, 4, 27, 3)
    added = sum(
        mixer_cost(mixers, dim, 1, 1).params * depth
        for dim, depth in list(zip((96, 192, 384, 576), depths))[0 if everywhere else 2 :]
    )
    assert count_params(build_empty(arch, spec)) == params + added
    assert abs(count_params(build_empty(arch, spec, 'params')) / params - 1) < 0.01
    if mixers in ('attn', 'block-state') and everywhere:
        with pytest.raises(InputError, match="cost more than the blocks can give up for equal='macs'"):
            build_empty(arch, spec, 'macs')
    else:
        assert abs((count_macs(build_empty(arch, spec, 'macs')) - macs) / (macs + rest)) < 0.01


def test_experts_that_take_turns_fit_equal_widths(mambaout_sizes):
    params, macs, rest = mambaout_sizes['tiny']
    assert abs(count_params(build_empty('tiny', 'bissm-moe-all', 'params')) / params - 1) < 0.01
    assert abs((count_macs(build_empty('tiny', 'bissm-moe-all', 'macs')) - macs) / (macs + rest)) < 0.01


@pytest.mark.parametrize('name', [name for name in ARMS if ':' not in name])
def test_the_control_costs_the_same(name):
    with torch.device('meta'):
        counts = [
            sum(p.numel() for p in GatedMixerNet(arch='tiny', mixers=mixers).parameters())
            for mixers in (name, f'pointwise:{name}', 'none')
        ]
    assert abs((counts[1] - counts[2]) / (counts[0] - counts[2]) - 1) < 0.01


def test_bfloat16_stays_in_its_precision():
    model = GatedMixerNet(arch=SMALL, mixers=HYBRID).eval()
    seen = []
    for module in model.modules():
        if isinstance(module, MixedConv):
            module.register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        outs = model(torch.randn(1, 3, 64, 64))
    assert seen and all(out == torch.bfloat16 for _, out in seen)
    assert all(out.isfinite().all() for out in outs)
