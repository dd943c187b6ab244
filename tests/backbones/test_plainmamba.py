"""PlainMamba against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.analysis.complexity.count import count_complexity
from mmbackbones.backbones import PlainMamba
from mmbackbones.backbones.plainmamba import PlainMambaMixer
from mmbackbones.checkpoints.adapters.plainmamba import convert_plainmamba
from mmbackbones.checkpoints.layout import of_backbone
from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import project
from mmbackbones.ops.selective_scan import selective_scan
from tests.backbones.staged_cases import (
    TOLERANCE,
    build_whole,
    load_case,
    load_keys,
    load_weights,
    whole_config,
)

TINY = dict(embed_dims=16, depth=3, d_state=4)
CASES = ['square', 'resize_nonsquare', 'odd_size', 'eps']


def build_like(options, **overrides):
    mamba = options['layer_cfgs']['mamba_cfg']
    arch = dict(
        embed_dims=options['embed_dims'],
        depth=options['num_layers'],
        patch_size=options['patch_size'],
        stem_convs=options['num_convs_patch_embed'],
        dwconv_blocks=options['layers_with_dwconv'],
        d_state=mamba['d_state'],
        d_conv=mamba['conv_size'],
        expand=mamba['expand'],
    )
    return PlainMamba(arch=arch, img_size=options['img_size'], out_indices=options['out_indices'], **overrides).eval()


@torch.no_grad()
def compare(model, case):
    """Every recorded tensor: patches, tokens, mixers, blocks, normed maps, and the classifier put on top."""
    load_weights(model, case.weights)
    actual = {}

    def record(i):
        def hook(module, inputs, output):
            actual.setdefault('tokens_in', inputs[0])
            actual[f'block.{i}'], actual[f'mixer.{i}'] = output

        return hook

    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(record(i))
    model.patch_embed.register_forward_hook(
        lambda module, inputs, output: actual.update(patch_embed=output.flatten(2).transpose(1, 2))
    )
    outs = model(case.tensors['x'])
    actual |= {f'out.{k}': out for k, out in enumerate(outs)}
    actual['final_tokens'] = outs[-1].flatten(2).transpose(1, 2)
    actual['pooled'] = actual['final_tokens'].mean(1)
    actual['logits'] = F.linear(actual['pooled'], case.weights['head.fc.weight'], case.weights['head.fc.bias'])

    expected = {key for key in case.tensors if not key.startswith('state_dict') and key != 'x'}
    assert expected == actual.keys()
    for key, value in actual.items():
        torch.testing.assert_close(value, case.tensors[key], msg=lambda m, k=key: f'{k}: {m}', **TOLERANCE)


@pytest.mark.parametrize('name', CASES)
def test_golden(name, backend):
    case = load_case(f'plainmamba_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('correction', ['selection', 'step_bias'])
def test_golden_tells_the_corrections_apart(correction):
    case = load_case('plainmamba_resize_nonsquare')
    with pytest.raises(AssertionError, match=r'block\.0: .*not close'):
        compare(build_like(case.options, **{correction: 'exact'}), case)


def test_corrected_numerics():
    """On a map of one row all snakes run along it, so that the plain scans of the sequence must come out."""
    torch.manual_seed(0)
    mixer = PlainMambaMixer(8, d_state=4, selection='exact', step_bias='exact')
    tokens = torch.randn(2, 11, 8)
    x, z = F.linear(tokens, mixer.in_proj.weight, mixer.in_proj.bias).transpose(1, 2).chunk(2, dim=1)
    x = F.silu(mixer.conv2d(x[:, :, None])).squeeze(2)
    dt, B, C = project(mixer.x_proj, x).split([1, 4, 4], dim=1)
    along, back = (mixer.direction_Bs[[0] + 10 * [move]].T for move in (1, 2))

    def scan(moves, reverse):
        return selective_scan(
            x,
            project(mixer.dt_proj, dt),
            -mixer.A_log.exp(),
            B + moves,
            C,
            mixer.D,
            delta_bias=mixer.dt_proj.bias,
            delta_softplus=True,
            reverse=reverse,
        )

    y = 2 * (scan(along, False) + scan(back.flip(1), True)) * F.silu(z)
    torch.testing.assert_close(mixer(tokens, (1, 11)), mixer.out_proj(y.transpose(1, 2)))


@pytest.mark.parametrize('name', PlainMamba.archs)
def test_published_keys(name):
    published = load_keys(f'plainmamba_{name}')
    with torch.device('meta'):
        model = PlainMamba(arch=name, out_indices=(PlainMamba.archs[name]['depth'] - 1,))
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    shapes = {key: value.shape for key, value in convert_plainmamba(of_backbone(weights)).items()}
    own = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: shape for key, shape in shapes.items() if not key.startswith('head.')} == own
    assert sum(p.numel() for p in model.parameters()) == published['num_parameters_backbone']


@pytest.mark.parametrize(
    'name, millions, out_indices',
    [('L1', 35, (5, 11, 17, 23)), ('L2', 55, (5, 11, 17, 23)), ('L3', 81, (8, 17, 26, 35))],
)
def test_published_size_of_the_segmentor(name, millions, out_indices):
    """The authors' README, which cuts decimals off; four maps of one stride go into UperNet."""
    parameters = build_whole('seg', PlainMamba, name, out_indices=out_indices).parameters()
    assert sum(p.numel() for p in parameters) // 10**6 == millions


@pytest.mark.parametrize(
    'name, giga, out_indices',
    [('L2', 285, (5, 11, 17, 23)), pytest.param('L3', 419, (8, 17, 26, 35), marks=pytest.mark.slow)],
)
def test_published_macs_of_the_segmentor(name, giga, out_indices):
    """MambaOut's Table 3, 512x2048; all parts grow linearly in the patches."""
    cfg = whole_config('seg', PlainMamba, name, out_indices=out_indices)
    one, two = (count_complexity(cfg, (64, width)).macs['total'] for width in (64, 128))
    patches, step = 512 * 2048 // 16**2, 64 * 64 // 16**2
    assert one + (two - one) / step * (patches - step) == pytest.approx(giga * 1e9, rel=0.005)


def test_initializer_takes_the_released_layout(tmp_path):
    """A classifier into a backbone that returns other maps; the last norm is dropped or kept."""
    donor = PlainMamba(arch=TINY, out_indices=(2,))
    weights = {
        f'backbone.{key}'.replace('.mixer.', '.mamba.').replace('outnorm2', 'ln1'): value
        for key, value in donor.state_dict().items()
        if key != 'pos_grid'
    }
    weights['head.fc.weight'] = torch.ones(10, 16)
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'l1.pth')
    for out_indices in ((0, 1), (0, 2)):
        model = PlainMamba(
            arch=TINY,
            out_indices=out_indices,
            img_size=160,
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'l1.pth')),
        )
        model.init_weights()
        own = model.state_dict()
        assert all(
            torch.equal(value, own[key])
            for key, value in donor.state_dict().items()
            if key in own and not key.startswith('pos_')
        )
        assert model.pos_embed.shape[1] == 100


def test_what_weight_decay_leaves_out():
    undecayed = PlainMamba(arch=TINY, out_indices=(1,)).no_weight_decay()
    names = ('A_log', 'D', 'direction_Bs')
    assert undecayed == {'pos_embed', *(f'layers.{i}.mixer.{name}' for i in (0, 1) for name in names)}


def test_drop_path_spares_the_convolution():
    model = PlainMamba(arch=dict(TINY, depth=5, dwconv_blocks=[1]), out_indices=(1, 3), drop_path_rate=0.2)
    assert [layer.drop_path.drop_prob for layer in model.layers] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert [layer.dw is not None for layer in model.layers] == [False, True, False, False]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast(dtype):
    """The residual stream stays float32, also behind the convolution; everything stays finite."""
    torch.manual_seed(0)
    model = PlainMamba(arch=dict(TINY, dwconv_blocks=[0]), out_indices=(0, 2)).train()
    largest = []

    def check(module, inputs, output):
        stream, mixed = output
        assert inputs[0].dtype == stream.dtype == torch.float32 and mixed.dtype == dtype
        largest.append(mixed.abs().max().item())

    for layer in model.layers:
        layer.mixer.out_proj.weight.data *= 3000
        layer.mixer.dt_proj.bias.data.uniform_(-5, 50)
        layer.register_forward_hook(check)
    with torch.autocast('cpu', dtype):
        outs = model(20 * torch.randn(1, 3, 112, 144))
    sum(out.float().square().mean() for out in outs).backward()
    assert 50 < max(largest) < torch.finfo(torch.float16).max
    assert all(out.isfinite().all() for out in outs)
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='L4'), "PlainMamba: unknown arch 'L4'; known: L1, L2, L3, or a dict"),
        (dict(arch=dict(TINY, stride=8)), "unknown keys 'stride'; known: embed_dims, depth, patch_size, stem_convs"),
        (dict(arch=dict(TINY, patch_size=7)), 'patch_size=7, expected an even number of pixels'),
        (dict(selection='raster'), "selection='raster', expected one of official, exact"),
        (dict(step_bias=2), 'step_bias=2, expected one of official, exact'),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        PlainMamba(**{'arch': TINY, 'out_indices': (2,), **options})


def test_bad_tables():
    with pytest.raises(InputError, match='PlainMamba checkpoint: pos_embed has 24 rows for patches, expected a square'):
        convert_plainmamba({'pos_embed': torch.zeros(1, 24, 4)})
