"""timm's models as dense backbones: against mmdet's Swin, against timm itself, weights, options and bad input."""

from collections import OrderedDict

import pytest
import timm
import torch
import torch.nn.functional as F
from mmdet.models.backbones.swin import SwinTransformer, swin_converter
from mmengine.model import revert_sync_batchnorm
from safetensors.torch import save_file
from timm.layers import DropPath, resample_abs_pos_embed
from torch import nn

from mmbackbones.backbones import TimmBackbone
from mmbackbones.backbones.timm_backbone import ANY_SIZE
from mmbackbones.errors import InputError
from tests.backbones.test_registry import DEIT, TIMM

SWIN = dict(name='swin_tiny_patch4_window7_224', embed_dim=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4))
RESNET = TIMM['ResNet']
ARCHS = {**TIMM, 'DeiT': DEIT['arch']}


def build(arch, **options):
    torch.manual_seed(0)
    if arch == DEIT['arch']:
        options = {'out_indices': DEIT['out_indices'], **options}
    return TimmBackbone(arch=arch, **options).eval()


def shake(module):
    """Give every parameter, and every running statistic, a value of its own."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * 0.2
            value.copy_(value + (noise.abs() if name.endswith('running_var') else noise))
    return module


def image(height=64, width=80, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def official_swin(backbone):
    """Our weights in the layout that Swin's authors publish: halvings at the end of a stage, with buffers."""
    weights = OrderedDict()
    for key, value in backbone.state_dict().items():
        key = key.removeprefix('net.')
        if key.startswith('outnorm'):
            continue
        if '.downsample.' in key:
            _, stage, rest = key.split('.', 2)
            key = f'layers.{int(stage) - 1}.{rest}'
        weights[key] = value
    return weights


@pytest.mark.parametrize('size', [(112, 137), (75, 203), (224, 224)], ids=str)
def test_swin_equals_mmdets(size):
    """The last stage's map is smaller than the window at the first two sizes."""
    backbone = shake(build(SWIN, norm_cfg=dict(type='LN', eps=1e-5), size_divisor=4))
    theirs = SwinTransformer(embed_dims=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4))
    theirs.eval()
    weights = swin_converter(official_swin(backbone))
    weights = {key.removeprefix('backbone.'): value for key, value in weights.items()}
    for i in range(4):
        for part in ('weight', 'bias'):
            weights[f'norm{i}.{part}'] = backbone.state_dict()[f'outnorm{i}.{part}']
    missing = theirs.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith('relative_position_index') for key in missing.missing_keys)
    with torch.no_grad():
        ours, expected = backbone(image(*size)), theirs(image(*size))
    for out, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)


def test_swin_without_full_windows_would_differ():
    """Against the test above passing whatever the options: timm's own treatment of small maps is another function."""
    outs = []
    for options in ({}, dict(always_partition=False)):
        backbone = shake(build({**SWIN, **options}))
        with torch.no_grad():
            outs.append(backbone(image(112, 137)))
    torch.testing.assert_close(outs[0][0], outs[1][0])
    assert (outs[0][3] - outs[1][3]).abs().max() > 0.1


def test_any_size_options_exist():
    assert all(hasattr(timm.models, source) for source in ANY_SIZE)


def test_deit_at_another_size_is_a_deit_made_for_it():
    """Padded with zeros to whole patches, its position table resized as timm does when it loads one."""
    backbone = shake(build(DEIT['arch'], norm_cfg=None))
    options = {key: value for key, value in DEIT['arch'].items() if key != 'name'}
    fixed = timm.create_model(DEIT['arch']['name'], img_size=(112, 144), **options).eval()
    weights = {key.removeprefix('net.'): value for key, value in backbone.state_dict().items()}
    weights['pos_embed'] = resample_abs_pos_embed(weights['pos_embed'], (7, 9))
    fixed.load_state_dict(weights, strict=False)
    x = image(112, 137)
    with torch.no_grad():
        ours = backbone(x)
        expected = fixed.forward_intermediates(F.pad(x, (0, 7)), indices=[0, 2], intermediates_only=True)
    for out, reference in zip(ours, expected, strict=True):
        assert out.shape[-2:] == (7, 9)
        torch.testing.assert_close(out, reference)


@pytest.mark.parametrize(('attention', 'calls'), [('sdpa', 3), ('eager', 0), ('fused', 3), ('materialised', 0)])
def test_attention_is_sdpa_unless_told_not_to(attention, calls, monkeypatch):
    counted, original = [], F.scaled_dot_product_attention

    def count(*args, **kwargs):
        counted.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', count)
    with torch.no_grad():
        out = shake(build(DEIT['arch'], attention=attention))(image())
        assert len(counted) == calls
        reference = shake(build(DEIT['arch']))(image())
    torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family', ARCHS)
def test_a_classifiers_weights_fit(family, tmp_path):
    """timm's own file: all is taken but what stands after the maps, and the maps are the classifier's."""
    arch = dict(ARCHS[family])
    backbone = build(arch, norm_cfg=None)
    # A classifier of the same shape: what was cut off, put back with other classes.
    full = {key: torch.zeros(3) for key in (key.removeprefix('net.') for key in backbone.allowed_unexpected)}
    net = shake(backbone.net)
    assert full and all(key.split('.')[0] in ('head', 'fc', 'norm') for key in full)
    save_file({**net.state_dict(), **full}, tmp_path / 'model.safetensors')
    with torch.no_grad():
        expected = net.forward_intermediates(image(), indices=list(backbone.out_indices), intermediates_only=True)
    heir = build(
        arch,
        norm_cfg=None,
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'model.safetensors')),
    )
    heir.init_weights()
    with torch.no_grad():
        for out, reference in zip(heir.eval()(image()), expected, strict=True):
            torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda weights: weights.pop('layers.2.blocks.1.mlp.fc1.bias'),
            'missing 1: net.layers.2.blocks.1.mlp.fc1.bias',
        ),
        (lambda weights: weights.update(surplus=torch.zeros(1)), 'unexpected 1: net.surplus'),
    ],
    ids=['missing', 'surplus'],
)
def test_weights_that_do_not_fit(change, message, tmp_path):
    weights = dict(build(SWIN).net.state_dict())
    change(weights)
    torch.save(weights, tmp_path / 'swin.pth')
    backbone = build(SWIN, init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'swin.pth')))
    with pytest.raises(InputError, match=message):
        backbone.init_weights()


@pytest.mark.parametrize('family', ['ConvNeXt', 'DeiT', 'ResNet'])
def test_weights_of_another_family(family, tmp_path):
    torch.save(build(ARCHS[family]).net.state_dict(), tmp_path / 'other.pth')
    backbone = build(SWIN, init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'other.pth')))
    with pytest.raises(InputError, match=r'does not fit TimmBackbone|not the weights of swin') as caught:
        backbone.init_weights()
    assert '\n' not in str(caught.value)


def test_the_authors_swin_layout(tmp_path):
    donor = shake(build(SWIN, norm_cfg=None))
    torch.save(dict(model=official_swin(donor)), tmp_path / 'swin.pth')
    heir = build(
        SWIN, norm_cfg=None, init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    )
    heir.init_weights()
    for name, value in donor.state_dict().items():
        assert torch.equal(value, heir.state_dict()[name]), name


def test_wider_focal_windows_compute_the_same(tmp_path):
    """Dense FocalNets have windows of 9 in place of 3; the kernels grow by zeros."""
    narrow = shake(build(TIMM['FocalNet'], norm_cfg=None))
    torch.save(narrow.net.state_dict(), tmp_path / 'focalnet.pth')
    wide = build(
        {**TIMM['FocalNet'], 'focal_windows': (9,) * 4},
        norm_cfg=None,
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'focalnet.pth')),
    )
    wide.init_weights()
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in narrow.parameters())
    with torch.no_grad():
        for out, reference in zip(wide.eval()(image(75, 109)), narrow(image(75, 109)), strict=True):
            torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family', ['Swin', 'PVTv2', 'FocalNet', 'ResNet'])
def test_maps_cover_the_whole_image(family):
    """Where authors pad or convolve past the border, every map has ceil(side / stride) rows and columns."""
    backbone = build(ARCHS[family])
    with torch.no_grad():
        outs = backbone(image(75, 109))
    for out, stride in zip(outs, backbone.out_strides, strict=True):
        assert tuple(out.shape[-2:]) == (-(-75 // stride), -(-109 // stride))


def test_each_map_is_normalized():
    with torch.no_grad():
        outs, raw = (shake(build(TIMM['CAFormer'], norm_cfg=norm))(image()) for norm in (dict(type='LN'), None))
        backbone = shake(build(TIMM['CAFormer'], norm_cfg=dict(type='LN')))
    for i, (out, plain) in enumerate(zip(outs, raw, strict=True)):
        norm = getattr(backbone, f'outnorm{i}')
        expected = F.layer_norm(plain.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias)
        torch.testing.assert_close(out, expected.permute(0, 3, 1, 2))


def test_what_lies_past_the_last_map_is_not_built():
    whole, part = (shake(build(TIMM['ConvNeXt'], norm_cfg=None, out_indices=indices)) for indices in (None, (0, 2)))
    assert part.out_channels == (8, 16) and part.out_strides == (4, 16)
    assert any(key.startswith('net.stages.3.') for key in part.allowed_unexpected)
    assert not any(key.startswith('net.stages.3.') for key in part.state_dict())
    assert len(whole.freezable_modules()) == 5 and len(part.freezable_modules()) == 4


def test_a_resnets_first_map_is_its_stem():
    assert build(RESNET).out_strides == (4, 8, 16, 32)
    assert build(RESNET, out_indices=(0, 1)).out_strides == (2, 4)


def test_drop_path_reaches_timm():
    rates = [
        module.drop_prob
        for module in build(TIMM['ConvNeXt'], drop_path_rate=0.4).modules()
        if isinstance(module, DropPath)
    ]
    assert max(rates) == pytest.approx(0.4) and rates == sorted(rates)


@pytest.mark.parametrize('options', [dict(norm_eval=True), dict(frozen_stages=4)], ids=str)
def test_frozen_norms_stay_still(options):
    backbone = build(RESNET, **options).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(image())
    assert before and all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert any(parameter.requires_grad for parameter in backbone.net.parameters()) == ('norm_eval' in options)


def test_synchronised_norms_and_their_reversal():
    """mmengine puts plain norms in their place in a single process."""
    backbone = shake(build(RESNET, bn_cfg=dict(type='SyncBN')))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules())
    plain = shake(build(RESNET))
    reverted = revert_sync_batchnorm(backbone).eval()
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in reverted.modules())
    with torch.no_grad():
        for out, reference in zip(reverted(image()), plain(image()), strict=True):
            torch.testing.assert_close(out, reference)


def test_layer_depth_of_a_plain_net():
    backbone = build(DEIT['arch'])
    names = [name for name, _ in backbone.named_parameters()]
    depths = {name: backbone.get_layer_depth(f'backbone.{name}', 'backbone.') for name in names}
    assert depths['net.pos_embed'] == depths['net.cls_token'] == depths['net.patch_embed.proj.weight'] == (0, 5)
    assert [depths[f'net.blocks.{i}.attn.qkv.weight'] for i in range(3)] == [(1, 5), (2, 5), (3, 5)]
    assert depths['outnorm2.weight'] == (4, 5)
    assert backbone.no_weight_decay() == {'net.pos_embed', 'net.cls_token'}


def test_relative_positions_do_not_decay():
    names = build(SWIN).no_weight_decay()
    assert len(names) == 8 and all(name.endswith('relative_position_bias_table') for name in names)


@pytest.mark.parametrize('frozen', [0, 1, 3])
def test_frozen_position_table(frozen):
    backbone = build(DEIT['arch'], frozen_stages=frozen).train()
    still = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert still == {
        name
        for name, _ in backbone.named_parameters()
        if name.startswith(
            ('net.pos_embed', 'net.cls_token', 'net.patch_embed', *(f'net.blocks.{i}.' for i in range(frozen)))
        )
    }


@pytest.mark.parametrize('family', ARCHS)
def test_mixed_precision(family):
    """Shapes hold, gradients are finite, and the maps are those of full precision to what bfloat16 can say."""
    backbone = build(ARCHS[family])
    reference = backbone(image(75, 109))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outs = backbone(image(75, 109))
    sum(out.float().square().mean() for out in outs).backward()
    for out, expected in zip(outs, reference, strict=True):
        assert (out.float() - expected).abs().mean() < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='convnext_tinny'), "timm has no model 'convnext_tinny'; nearest: convnext_tiny"),
        (dict(arch='qqqqqqqq'), "timm has no model 'qqqqqqqq'; nearest: none"),
        (dict(arch='convnext_tiny.fb_in2k'), r"no weights 'convnext_tiny.fb_in2k'; known: .*convnext_tiny\.fb_in1k"),
        (dict(arch=dict(depth=3)), "lacks the key 'name'"),
        (dict(arch=dict(name='convnext_atto', widths=3)), "convnext_atto: .*unexpected keyword argument 'widths'"),
        (dict(arch='deit_tiny_patch16_224'), r'12 maps have the strides \[16\]; choose out_indices'),
        (dict(arch='convnext_atto', out_indices=(0, 4)), 'expected ascending feature maps out of 0..3'),
        (dict(arch='convnext_atto', attention='flash'), "attention='flash', expected one of sdpa, eager"),
        (dict(arch='convnext_atto', attention='eager'), 'no attention to choose'),
        (dict(arch='convnext_atto', norm_eval=True), 'it has no batch norm'),
        (dict(arch='resnet10t', bn_cfg=dict(type='GN')), 'expected a type of BN, SyncBN'),
        (dict(arch='test_efficientnet', bn_cfg=dict(type='SyncBN')), "only 'BN' is supported"),
        (dict(arch='convnext_atto', drop_path_rate=1.0), 'drop_path_rate=1.0, expected 0 or more and below 1'),
        (dict(arch='convnext_atto', frozen_stages=5), 'frozen_stages=5, but there are 4 stages'),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message) as caught:
        TimmBackbone(**options)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


def test_a_model_without_feature_maps(monkeypatch):
    """Every model of today's timm has them; this one has lost them."""
    monkeypatch.delattr(timm.models.convnext.ConvNeXt, 'forward_intermediates')
    with pytest.raises(InputError, match='TimmBackbone convnext_atto: it gives no feature maps'):
        TimmBackbone(arch='convnext_atto')


@pytest.mark.parametrize(('arch', 'size'), [('test_maxvit', (160, 176)), ('test_vit_relpos', (64, 80))])
def test_an_image_size_that_a_model_of_one_size_cannot_take(arch, size):
    backbone = TimmBackbone(arch=arch, out_indices=(0, 1), norm_cfg=None)
    with pytest.raises(InputError, match=f'TimmBackbone {arch} takes no image of {size[0]}x{size[1]} px: ') as caught:
        backbone(image(*size))
    assert '\n' not in str(caught.value)


def test_maps_that_contradict_their_stride():
    """CrossViT resizes every image to its own size; its maps would say nothing about where things are."""
    with torch.device('meta'):
        backbone = TimmBackbone(arch='crossvit_9_240', out_indices=(0,), norm_cfg=None)
        with pytest.raises(InputError, match='crossvit_9_240 takes no image of 224x320 px: map 0 of stride 12 would'):
            backbone(torch.empty(1, 3, 224, 320))


def test_size_divisor():
    """An HRNet fuses maps whose sides must be doubled exactly."""
    with torch.device('meta'):
        with pytest.raises(InputError, match='takes no image of 112x137 px'):
            TimmBackbone(arch='hrnet_w18_small')(torch.empty(1, 3, 112, 137))
        outs = TimmBackbone(arch='hrnet_w18_small', size_divisor=32)(torch.empty(1, 3, 112, 137))
    assert [tuple(out.shape[-2:]) for out in outs] == [(28, 35), (14, 18), (7, 9), (4, 5)]


@pytest.mark.parametrize('arch', ['rdnet_tiny', 'coat_lite_tiny'])
def test_stages_that_timm_has_no_rule_for(arch):
    with torch.device('meta'):
        backbone = TimmBackbone(arch=arch, out_indices=(0, 1), frozen_stages=1)
    assert {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert not next(backbone.net.parameters()).requires_grad


def test_an_error_within_a_model_keeps_its_traceback(monkeypatch):
    backbone = build(TIMM['ConvNeXt'])

    def fail(*_):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(backbone.net.stem, 'forward', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        backbone(image())


def test_bad_images():
    with pytest.raises(InputError, match='image 3x64 is smaller than the stem, 4 px'):
        build(TIMM['ConvNeXt'])(image(3, 64))
    with pytest.raises(InputError, match='expected a float image batch'):
        build(TIMM['ConvNeXt'])(torch.zeros(3, 64, 64))
