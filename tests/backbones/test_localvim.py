"""LocalVim against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.backbones import LocalVim
from mmbackbones.backbones.localvim import LocalMambaMixer
from mmbackbones.checkpoints.adapters.localvim import convert_localvim
from mmbackbones.errors import InputError
from tests.backbones.staged_cases import TOLERANCE, build_whole, load_case, load_keys

TINY = dict(embed_dims=16, depth=3, d_state=4, directions='h v_flip w2 w7_flip')


def build_like(options, **overrides):
    """The backbone for the authors' arguments; the classifiers' every block a map, without norm."""
    arch = dict(
        embed_dims=options['embed_dim'],
        depth=options['depth'],
        patch_size=options['patch_size'],
        directions=[' '.join(names) for names in options['directions']],
        cls_token=options.get('use_middle_cls_token', False),
    )
    return LocalVim(
        **{
            **dict(
                arch=arch,
                img_size=options['img_size'],
                block_norm='rms' if options['rms_norm'] else 'layer',
                out_indices=options.get('out_indices', range(options['depth'])),
                norm_cfg=dict(type='LN', eps=1e-5) if 'out_indices' in options else None,
            ),
            **overrides,
        }
    ).eval()


@torch.no_grad()
def compare(model, case, prefix=''):
    """Every recorded tensor: tokens, mixers, residual stream, maps, and the classifier put on top."""
    w = case.weights
    for k, i in enumerate(model.out_indices):
        for name in ('weight', 'bias'):
            if f'outnorm_{k}.{name}' in w:
                w[f'outnorm{i}.{name}'] = w.pop(f'outnorm_{k}.{name}')
    report = model.load_state_dict(convert_localvim(w), strict=False)
    assert not report.missing_keys and all(key.startswith(('head.', 'norm_f.')) for key in report.unexpected_keys)
    actual, last = {}, len(model.layers) - 1

    def record(i):
        def hook(module, inputs, output):
            actual.setdefault('tokens_in', inputs[0])  # rotated by then, as the authors' were
            actual[f'residual.{i}'], actual[f'hidden.{i}'] = inputs[0], output[1]

        return hook

    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(record(i))
    outs = model(case.tensors['x'])
    if 'head.weight' in w:
        tokens = actual[f'residual.{last}'] + actual[f'hidden.{last}']
        actual['norm_f_tokens'] = tokens = F.rms_norm(tokens, tokens.shape[2:], w['norm_f.weight'], 1e-5)
        pooled = tokens[:, (tokens.shape[1] - 1) // 2] if model.with_cls_token else tokens.mean(1)
        actual['logits'] = F.linear(pooled, w['head.weight'], w['head.bias'])
    else:
        actual |= {f'out.{k}': out for k, out in enumerate(outs)}

    expected = {
        key: value
        for key, value in case.tensors.items()
        if key.startswith(prefix)
        and not key.startswith(('state_dict', 'x'))
        and (prefix or not key.startswith('true_inverse.'))
    }
    assert expected and (prefix or expected.keys() == actual.keys())
    for key, value in expected.items():
        found = actual[key.removeprefix(prefix)]
        torch.testing.assert_close(found, value, msg=lambda m, k=key: f'{k}: {m}', **TOLERANCE)


CASES = ['square', 'nonsquare', 'midcls', 'eps', 'backbone_square', 'backbone_pad_nonsquare']


@pytest.mark.parametrize('name', CASES)
def test_golden(name, backend):
    case = load_case(f'localvim_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('name', CASES)
def test_golden_with_the_true_inverse(name, backend):
    """Square maps cannot tell the two apart, the others were recorded both ways."""
    case = load_case(f'localvim_{name}')
    square = case.tensors['x'].shape[2] == case.tensors['x'].shape[3]
    compare(build_like(case.options, scan_inverse='exact'), case, prefix='' if square else 'true_inverse.')


def test_the_inverses_differ_where_maps_are_not_square():
    case = load_case('localvim_nonsquare')
    with pytest.raises(AssertionError, match='not close'):
        compare(build_like(case.options, scan_inverse='exact'), case)


@pytest.mark.parametrize(
    'arch, name',
    [
        ('tiny', 'tiny'),
        ('tiny_middle_cls_token', 'tiny_middle_cls_token'),
        ('small_uniform', 'small'),
        ('small_searched', 'small'),
    ],
)
def test_published_keys_and_directions(arch, name):
    published = load_keys(f'localvim_{name}')
    directions = load_keys('localvim_tiny' if arch == 'small_searched' else f'localvim_{name}')['directions']
    with torch.device('meta'):
        model = LocalVim(arch=arch, norm_cfg=None)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    assert [list(layer.mixer.directions) for layer in model.layers] == directions
    shapes = {key: value.shape for key, value in convert_localvim(weights).items()}
    own = {key: value.shape for key, value in model.state_dict().items()}
    classifier = {key: value for key, value in weights.items() if key.startswith(('head.', 'norm_f.'))}
    assert {key: shape for key, shape in shapes.items() if key not in classifier} == own
    total = sum(p.numel() for p in model.parameters()) + sum(value.numel() for value in classifier.values())
    assert total == published['num_parameters']


@pytest.mark.parametrize('name, millions', [('tiny', 36), ('small_uniform', 58)])
def test_published_size_of_the_segmentor(name, millions):
    """LocalMamba paper, Table 4; four maps of one stride go into UperNet."""
    parameters = build_whole('seg', LocalVim, name).parameters()
    assert round(sum(p.numel() for p in parameters) / 1e6) == millions


def published_file(path, **options):
    """A classifier as the authors save it, and the model that it came from."""
    donor = LocalVim(arch=TINY, out_indices=(2,), norm_cfg=None, **options)
    weights = {key: value for key, value in donor.state_dict().items() if not key.endswith('_grid')}
    for k in range(4):
        weights = {
            key.replace(f'.A_{k}_log', f'.A_log_{k}').replace('channel_gate', 'attn'): value
            for key, value in weights.items()
        }
    sin, cos = donor.rotation(donor.grid, torch.device('cpu'))
    weights |= {'rope.freqs_sin': sin, 'rope.freqs_cos': cos, 'norm_f.weight': torch.ones(16)}
    torch.save(dict(state_dict=weights, epoch=300), path)
    return donor


@pytest.mark.parametrize('block_norm', ['rms', 'layer'])
def test_initializer_takes_the_released_layout(block_norm, tmp_path):
    donor = published_file(tmp_path / 'local_vim_tiny.ckpt')
    model = LocalVim(
        arch=TINY,
        out_indices=(0, 1),
        img_size=160,
        block_norm=block_norm,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'local_vim_tiny.ckpt')),
    )
    model.init_weights()
    weights = donor.state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith(('outnorm', 'pos_')) and not name.endswith('norm.bias'):
            assert torch.equal(value, weights[name]), name
    assert model.pos_embed.shape[1] == 100 and model.rotary_grid == (14, 14)


def test_layer_norm_alone_may_lack_its_biases(tmp_path):
    """The allow-list holds nothing of a model with RMSNorm, and nothing but norms of the other."""
    assert LocalVim(arch=TINY, out_indices=(2,)).allowed_missing == ('outnorm',)
    layer = LocalVim(arch=TINY, out_indices=(1,), block_norm='layer')
    assert layer.allowed_missing == ('outnorm', 'layers.0.norm.bias', 'layers.1.norm.bias')
    published_file(tmp_path / 'model.ckpt', block_norm='layer')
    rms = LocalVim(
        arch=TINY, out_indices=(2,), init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'model.ckpt'))
    )
    with pytest.raises(InputError, match=r'model\.ckpt does not fit LocalVim'):
        rms.init_weights()


def test_class_token_stays_in_the_middle_of_every_sequence():
    """Of padded and flipped sequences too: a causal mixer's token then sees just what comes before it there."""
    torch.manual_seed(0)
    mixer = LocalMambaMixer(8, directions=('w2', 'w2_flip', 'h', 'v_flip'), exact=True, middle_token=True, d_state=4)
    seen = []

    def scan(x, z, branches, reverse):
        token = x.argmax(1)  # [B, S, D] -> [B, D]
        seen.append((x.shape[1] - 1 - token if reverse[0] else token).unique().tolist())
        return x

    mixer.scan = scan
    with torch.no_grad():
        mixer.in_proj.weight.fill_(1)
        mixer(torch.eye(16)[7].expand(8, 16).T[None], (3, 5))
    assert seen == 4 * [[7]]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast(dtype):
    """The residual stream stays float32; everything stays finite, in float16 below its largest number."""
    torch.manual_seed(0)
    model = LocalVim(arch=TINY, out_indices=(0, 2)).train()
    largest = []

    def check(module, inputs, output):
        stream, mixed = output
        assert inputs[0].dtype == stream.dtype == torch.float32 and mixed.dtype == dtype
        largest.append(mixed.abs().max().item())

    for layer in model.layers:
        layer.mixer.out_proj.weight.data *= 3000
        layer.mixer.dt_proj_2.bias.data.uniform_(-5, 100)
        layer.register_forward_hook(check)
    with torch.autocast('cpu', dtype):
        outs = model(20 * torch.randn(1, 3, 112, 144))
    sum(out.float().square().mean() for out in outs).backward()
    assert 50 < max(largest) < torch.finfo(torch.float16).max
    assert all(out.isfinite().all() for out in outs)
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_what_weight_decay_leaves_out():
    model = LocalVim(arch=dict(TINY, cls_token=True), out_indices=(0,))
    assert model.no_weight_decay() == {
        'pos_embed',
        'cls_token',
        *(f'layers.0.mixer.{n}' for k in range(4) for n in (f'A_{k}_log', f'D_{k}')),
    }


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(arch='small'),
            "LocalVim: unknown arch 'small'; known: tiny, .*, small_uniform, small_searched, or a dict",
        ),
        (dict(arch=dict(TINY, rope=True)), "unknown keys 'rope'; known: .* directions, cls_token"),
        (dict(arch=dict(TINY, directions='h v')), "directions='h v', expected a string of 4 scan orders, or 3 such"),
        (dict(arch=dict(TINY, directions='h v w2 x')), "scan order 'x' unknown"),
        (dict(arch=dict(embed_dims=16, depth=3)), 'LocalVim: arch directions=None, expected'),
        (dict(scan_inverse='true'), "LocalVim: scan_inverse='true', expected one of official, exact"),
        (dict(block_norm='LN'), "block_norm='LN', expected one of rms, layer"),
        (dict(out_feature='hidden'), "out_feature='hidden', expected one of residual, mixer"),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        LocalVim(**{'arch': TINY, 'out_indices': (2,), **options})


def test_bad_tables():
    with pytest.raises(InputError, match='LocalVim checkpoint: pos_embed has 24 rows for patches, expected a square'):
        convert_localvim({'pos_embed': torch.zeros(1, 24, 4)})
