"""Vim against the authors' network, tensor by tensor, and what this package adds to it."""

import argparse
import json

import pytest
import torch
from mmengine.optim import OptimWrapper
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mmbackbones.backbones import Mamba, Vim
from mmbackbones.backbones.base import Block
from mmbackbones.backbones.vim import BIDIRECTIONS
from mmbackbones.checkpoints.adapters.vim import convert_vim
from mmbackbones.engine.optim import OptimWrapperConstructor
from mmbackbones.errors import InputError
from tests.conftest import golden

TINY = dict(embed_dims=24, depth=3)
TOLERANCE = dict(atol=5e-5, rtol=1e-4)


def load_golden(name):
    """Arguments of the authors' class, its state dict and the other tensors."""
    path = golden(f'{name}.safetensors')
    with safe_open(path, 'pt') as file:
        options = json.loads(file.metadata()['kwargs'])
    tensors = load_file(path)
    weights = {key.removeprefix('state_dict.'): x for key, x in tensors.items() if key.startswith('state_dict.')}
    return options, weights, tensors


def build_like(options, **overrides):
    """The backbone for the authors' arguments; every block a map, without our norm on it."""
    return Vim(
        **{
            **dict(
                arch=dict(embed_dims=options['embed_dim'], depth=options['depth'], stride=options.get('stride', 16)),
                img_size=options['img_size'],
                out_indices=tuple(range(options['depth'])),
                out_feature='residual' if options.get('use_residual_as_feature') else 'mixer',
                divide_out=options.get('if_divide_out', False),
                with_cls_token=options.get('if_cls_token', True),
                rope=options['if_rope'],
                pad_patches=False,
                norm_cfg=None,
            ),
            **overrides,
        }
    ).eval()


def load(model, weights):
    """Load the authors' weights; what is left over."""
    if 'pos_grid' not in weights and 'cls_token' in weights:
        weights = {**weights, 'pos_grid': torch.tensor(model.grid)}  # the goldens' tables are not square
    report = model.load_state_dict(convert_vim(weights), strict=False)
    assert not report.missing_keys
    return report.unexpected_keys


def record_blocks(model):
    hidden, residual = {}, {}

    def record(index):
        def hook(module, inputs, output):
            residual[f'residual.{index}'], hidden[f'hidden.{index}'] = inputs[0], output[1]

        return hook

    for index, block in enumerate(model.layers):
        assert isinstance(block, Block)
        block.register_forward_hook(record(index))
    return hidden, residual


@pytest.mark.parametrize('name', ['vim_cls_nonsquare', 'vim_cls_stride8', 'vim_eps'])
def test_golden_classifier(name, backend):
    options, weights, tensors = load_golden(name)
    model = build_like(options)
    assert set(load(model, weights)) == {'head.weight', 'head.bias', 'norm_f.weight'}
    hidden, residual = record_blocks(model)
    with torch.no_grad():
        maps = model(tensors['x'])
    torch.testing.assert_close(residual['residual.0'], tensors['tokens_in'], **TOLERANCE)
    for key, actual in {**hidden, **residual}.items():
        torch.testing.assert_close(actual, tensors[key], msg=lambda m, k=key: f'{k}: {m}', **TOLERANCE)

    last = options['depth'] - 1
    tokens = nn.functional.rms_norm(
        residual[f'residual.{last}'] + hidden[f'hidden.{last}'], [options['embed_dim']], weights['norm_f.weight'], 1e-5
    )
    torch.testing.assert_close(tokens, tensors['norm_f_tokens'], **TOLERANCE)
    middle = (tokens.shape[1] - 1) // 2
    logits = nn.functional.linear(tokens[:, middle], weights['head.weight'], weights['head.bias'])
    torch.testing.assert_close(logits, tensors['logits'], **TOLERANCE)

    grid = maps[0].shape[-2:]
    for index, actual in enumerate(maps):
        expected = tensors[f'hidden.{index}']
        expected = torch.cat((expected[:, :middle], expected[:, middle + 1 :]), dim=1)
        torch.testing.assert_close(actual, expected.transpose(1, 2).unflatten(2, grid), **TOLERANCE)


@pytest.mark.parametrize('name', ['vim_seg_tinycfg', 'vim_seg_smallcfg'])
def test_golden_segmentation(name, backend):
    """The pyramid is mmsegmentation's own."""
    from mmseg.models.necks import Feature2Pyramid  # not importable before mmbackbones where torchvision lacks its ops

    options, weights, tensors = load_golden(name)
    model = build_like(options)
    assert all(key.startswith(('fpn', 'norm_f.')) for key in load(model, weights))
    neck = Feature2Pyramid(options['embed_dim'], norm_cfg=dict(type='BN')).eval()
    neck.load_state_dict(
        {
            key.replace('fpn1.', 'upsample_4x.').replace('fpn2.', 'upsample_2x.'): x
            for key, x in weights.items()
            if key.startswith('fpn')
        }
    )
    hidden, residual = record_blocks(model)
    with torch.no_grad():
        maps = model(tensors['x'])
        outs = neck(maps)
    for index, (actual, out) in enumerate(zip(maps, outs)):
        torch.testing.assert_close(hidden[f'hidden.{index}'], tensors[f'hidden.{index}'], **TOLERANCE)
        if index == 0:  # later the authors' wrapper stores the residual stream after the next block's rotation
            torch.testing.assert_close(residual['residual.0'], tensors['residual.0'], **TOLERANCE)
        torch.testing.assert_close(actual, tensors[f'pre_fpn.{index}'], **TOLERANCE)
        torch.testing.assert_close(out, tensors[f'out.{index}'], **TOLERANCE)


@pytest.mark.parametrize('variant', Vim.archs)
@pytest.mark.parametrize('with_cls_token', [True, False], ids=['token', 'no-token'])
def test_published_keys(variant, with_cls_token):
    published = json.loads(golden(f'keys_vim_{variant}.json').read_text())
    with torch.device('meta'):
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
        weights['rope.freqs_cos'] = torch.empty(196, 192)
    weights = convert_vim(weights)
    assert weights['pos_grid'].tolist() == [27, 27] if 'stride8' in variant else [14, 14]
    model = Vim(arch=variant, with_cls_token=with_cls_token, norm_cfg=None)
    classifier = {'head.weight', 'head.bias', 'norm_f.weight'}
    assert all(key.startswith(model.allowed_unexpected) for key in classifier)
    shapes = {key: tuple(x.shape) for key, x in weights.items() if key not in classifier}
    own = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    if with_cls_token:
        assert shapes == own
        total = sum(p.numel() for p in model.parameters()) + sum(weights[key].numel() for key in classifier)
        assert total == published['num_parameters']
    else:
        differing = {key for key in shapes.keys() | own.keys() if shapes.get(key) != own.get(key)}
        assert differing == {'cls_token', 'pos_embed'}


def test_released_table_in_a_model_without_class_token():
    donor, model = Vim(arch=TINY, out_indices=(2,), with_cls_token=True), Vim(arch=TINY, out_indices=(2,))
    weights = donor.state_dict()
    published = {key: value for key, value in weights.items() if key != 'pos_grid'}
    model.load_state_dict(convert_vim(published))
    table = weights['pos_embed']
    assert torch.equal(model.pos_embed, torch.cat((table[:, :98], table[:, 99:]), dim=1))

    with pytest.raises(RuntimeError, match='cls_token'):
        donor.load_state_dict(model.state_dict())


def published_file(path, **arch):
    """A classifier as the authors save it."""
    weights = Vim(arch={**TINY, **arch}, out_indices=(2,), with_cls_token=True, norm_cfg=None).state_dict()
    del weights['pos_grid']
    dim = arch.get('embed_dims', TINY['embed_dims'])
    weights |= {'norm_f.weight': torch.ones(dim), 'head.weight': torch.ones(10, dim), 'head.bias': torch.ones(10)}
    torch.save({'model': weights, 'epoch': 300, 'args': argparse.Namespace(lr=1e-3)}, path)
    return weights


@pytest.mark.parametrize('with_cls_token', [True, False])
def test_initializer_takes_the_released_layout(with_cls_token, tmp_path):
    weights = published_file(tmp_path / 'vim.pth')
    model = Vim(
        arch=TINY,
        out_indices=(0, 1),
        with_cls_token=with_cls_token,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'vim.pth')),
    )
    model.init_weights()
    for name, value in model.state_dict().items():
        if not name.startswith(('outnorm', 'pos_')):
            assert torch.equal(value, weights[name]), name
    rows = torch.cat((weights['pos_embed'][:, :98], weights['pos_embed'][:, 99:]), dim=1)
    assert torch.equal(model.pos_embed, weights['pos_embed'] if with_cls_token else rows)


def test_initializer_refuses_another_variant(tmp_path):
    published_file(tmp_path / 'vim.pth', embed_dims=32)
    model = Vim(arch=TINY, out_indices=(2,), init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'vim.pth')))
    with pytest.raises(InputError, match=r'vim.pth does not fit Vim; .*another variant'):
        model.init_weights()


@pytest.mark.parametrize('with_cls_token', [True, False])
def test_non_square_table_keeps_its_grid(with_cls_token):
    options = dict(arch=TINY, out_indices=(2,), with_cls_token=with_cls_token)
    wide = Vim(img_size=(64, 128), **options).eval()
    tall = Vim(img_size=(128, 64), **options).eval()
    tall.load_state_dict(wide.state_dict())
    assert wide.pos_embed.shape == tall.pos_embed.shape and not torch.equal(wide.pos_embed, tall.pos_embed)
    again = Vim(img_size=(64, 128), **options).eval()
    again.load_state_dict(wide.state_dict())
    x = torch.randn(1, 3, 64, 128)
    assert torch.equal(again(x)[0], wide(x)[0])


def test_class_row_stays_with_the_class_token():
    """On another grid too: the row in the middle of the table, added to the token in the middle."""
    model = Vim(arch=TINY, out_indices=(0,), with_cls_token=True).eval()
    with torch.no_grad():
        model.pos_embed.zero_()[:, 98] = 1
        model.cls_token.zero_()
        model.patch_embed.proj.weight.zero_()
    _, residual = record_blocks(model)
    model(torch.randn(1, 3, 48, 80))
    tokens = residual['residual.0'][0, :, 0]
    assert tokens.nonzero().flatten().tolist() == [7] and len(tokens) == 16


def test_memory_is_linear_in_tokens(monkeypatch):
    """What training keeps, counted without computing it; the native scan's states included."""
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', 'cpu')
    with torch.device('meta'):
        model = Vim(arch='tiny')

    def kept(side):
        sizes = {}

        def keep(tensor):
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outs = model(torch.empty(1, 3, side, side, device='meta'))
        assert outs[0].shape == (1, 192, side // 16, side // 16)
        return sum(sizes.values())

    sides = [512, 1024, 1248, 2048]
    bytes_per_pixel = [(kept(side) - kept(256)) / (side**2 - 256**2) for side in sides]
    assert max(bytes_per_pixel) < 1.02 * min(bytes_per_pixel), bytes_per_pixel


def test_none_is_mamba():
    vim = Vim(arch=TINY, bidirection='none', out_indices=(0, 2))
    mamba = Mamba(arch=TINY, out_indices=(0, 2))
    mamba.load_state_dict(vim.state_dict())
    x = torch.randn(2, 3, 80, 64)
    for one, other in zip(vim(x), mamba(x)):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    'bidirection, forwards, backwards',
    [('none', True, False), ('layer', True, True), ('ssm', True, True), ('ssm_conv', True, True)],
)
def test_reach(bidirection, forwards, backwards):
    """Whether a pixel at the end is seen at the start, and the other way round."""
    model = Vim(arch=TINY, bidirection=bidirection, out_indices=(1,), norm_cfg=None).eval()
    x = torch.randn(1, 3, 64, 64)
    first, last = x.clone(), x.clone()
    first[..., :16, :16] += 1
    last[..., 48:, 48:] += 1
    with torch.no_grad():
        out, from_first, from_last = (model(image)[0] for image in (x, first, last))
    assert (not torch.equal(out[..., -1, -1], from_first[..., -1, -1])) == forwards
    assert (not torch.equal(out[..., 0, 0], from_last[..., 0, 0])) == backwards


def test_layers_alternate():
    model = Vim(arch=TINY, bidirection='layer', out_indices=(2,))
    assert [layer.mixer.direction for layer in model.layers] == ['forward', 'backward', 'forward']
    assert not any(layer.mixer.divide_out for layer in model.layers)
    assert {len(Vim(arch=TINY, bidirection=b, out_indices=(2,)).state_dict()) for b in BIDIRECTIONS} == {
        len(model.state_dict()),
        len(model.state_dict()) + 3,
        len(model.state_dict()) + 3 * 7,
    }


@pytest.mark.parametrize('stride', [16, 8])
def test_padding_is_black_and_keeps_the_patches(stride):
    """The overhanging patches are those of the image on a canvas of zeros; the others are the authors'."""
    arch = dict(TINY, stride=stride)
    padded = Vim(arch=arch, out_indices=(2,)).eval()
    exact = Vim(arch=arch, out_indices=(2,), pad_patches=False).eval()
    exact.load_state_dict(padded.state_dict())
    x = torch.randn(1, 3, 70, 100)
    inside = exact.patch_embed(x)
    assert inside.shape[2:] == ((70 - 16) // stride + 1, (100 - 16) // stride + 1)
    patches = padded.patch_embed(x)
    assert patches.shape[2:] == (-(-70 // stride), -(-100 // stride))
    torch.testing.assert_close(patches[..., : inside.shape[2], : inside.shape[3]], inside)
    canvas = x.new_zeros(1, 3, 160, 160)
    canvas[..., :70, :100] = x
    whole = padded.patch_embed(canvas)
    torch.testing.assert_close(patches, whole[..., : patches.shape[2], : patches.shape[3]])
    assert padded(x)[0].shape[2:] == patches.shape[2:] and exact(x)[0].shape[2:] == inside.shape[2:]


def test_drop_path_grows_over_all_blocks():
    model = Vim(arch=dict(embed_dims=24, depth=5), out_indices=(1, 3), drop_path_rate=0.2)
    rates = [layer.drop_path.drop_prob for layer in model.layers]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15])


def test_mixer_feature_ignores_drop_path_of_its_block():
    model = Vim(arch=TINY, out_indices=(0, 1), out_feature='mixer', norm_cfg=None)
    model.layers[1].drop_path = nn.Module()
    model.layers[1].drop_path.forward = torch.zeros_like
    x = torch.randn(1, 3, 64, 64)
    model.out_feature = 'mixer'
    assert model(x)[1].abs().max() > 0
    model.out_feature = 'residual'
    outs = model(x)
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_frozen_stages(frozen_stages):
    model = Vim(arch=TINY, out_indices=(2,), frozen_stages=frozen_stages, with_cls_token=True, with_cp=True)
    model.train()
    model(torch.randn(1, 3, 48, 48))[0].square().sum().backward()
    frozen = {
        name.split('.')[0] + '.' + name.split('.')[1] if name.startswith('layers') else name.split('.')[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is None
    }
    stem = {'patch_embed', 'pos_embed', 'cls_token'}
    assert frozen == {-1: set(), 0: stem, 2: stem | {'layers.0', 'layers.1'}}[frozen_stages]
    assert model.patch_embed.training == (frozen_stages < 0) and model.layers[2].training


def test_layer_depth():
    model = Vim(arch=TINY, out_indices=(0, 2), with_cls_token=True)
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    assert {total for _, total in depths.values()} == {5}
    for name, (layer, _) in depths.items():
        expected = 1 + int(name.split('.')[1]) if name.startswith('layers') else 4 if name.startswith('outnorm') else 0
        assert layer == expected, name


def test_weight_decay_groups():
    model = nn.ModuleDict(dict(backbone=Vim(arch=TINY, out_indices=(2,), with_cls_token=True)))
    wrapper = OptimWrapperConstructor(
        dict(type=OptimWrapper, optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05))
    )(model)
    decay = {
        parameter: group['weight_decay'] for group in wrapper.optimizer.param_groups for parameter in group['params']
    }
    undecayed = {name.removeprefix('backbone.') for name, parameter in model.named_parameters() if not decay[parameter]}
    expected = {'pos_embed', 'cls_token', 'outnorm2.weight', 'outnorm2.bias'}
    for i in range(3):
        expected |= {f'layers.{i}.norm.weight'} | {f'layers.{i}.mixer.{n}' for n in ('A_log', 'A_b_log', 'D', 'D_b')}
    assert undecayed == expected


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast(dtype):
    """The residual stream stays float32; everything stays finite, in float16 below its largest number."""
    torch.manual_seed(0)
    model = Vim(arch=TINY, out_indices=(0, 2), with_cls_token=True).train()
    with torch.no_grad():
        for layer in model.layers:
            layer.mixer.out_proj.weight *= 1000
    largest = []

    def check(module, inputs, output):
        stream, mixed = output
        assert inputs[0].dtype == stream.dtype == torch.float32 and mixed.dtype == dtype
        largest.append(mixed.abs().max().item())

    x = 20 * torch.randn(1, 3, 112, 144)
    expected = model(x)
    for block in model.layers:
        block.register_forward_hook(check)
    with torch.autocast('cpu', dtype):
        outs = model(x)
    sum(out.float().square().mean() for out in outs).backward()
    assert 50 < max(largest) < torch.finfo(torch.float16).max
    for out, exact in zip(outs, expected):
        assert out.isfinite().all() and (out - exact).abs().mean() < 0.1
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(arch='huge'),
            "Vim: unknown arch 'huge'; known: tiny, small, base, tiny_stride8, small_stride8, or a dict",
        ),
        (dict(arch=dict(embed_dim=24, depth=3)), "unknown keys 'embed_dim'; known: embed_dims, depth, patch_size"),
        (dict(arch=dict(embed_dims=24)), "lacks 'depth'"),
        (dict(bidirection='v2'), "bidirection='v2', expected one of none, layer, ssm, ssm_conv"),
        (dict(out_feature='hidden'), "out_feature='hidden', expected one of residual, mixer"),
        (dict(out_indices=(3,)), r'out_indices=\(3,\), expected ascending blocks out of 0..2'),
        (dict(rope=True, with_cls_token=True), 'rope=True has no place for a class token'),
        (dict(img_size=8), 'img_size=8, expected at least one patch, 16 px'),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        Vim(**{'arch': TINY, 'out_indices': (2,), **options})


def test_bad_images_and_tables():
    model = Vim(arch=TINY, out_indices=(2,))
    with pytest.raises(InputError, match='Vim: image 15x40 is smaller than the stem, 16 px'):
        model(torch.randn(1, 3, 15, 40))
    with pytest.raises(InputError, match='24 rows for patches, expected a square number'):
        convert_vim({'pos_embed': torch.zeros(1, 25, 4), 'cls_token': torch.zeros(1, 1, 4)})
