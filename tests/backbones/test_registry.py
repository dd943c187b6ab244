"""What every registered backbone must do. A new backbone adds one row to ``ROWS``."""

import inspect

import pytest
import torch

from mmbackbones.backbones.base import Backbone, PlainBackbone, PlainRunOptions, RunOptions
from mmbackbones.backbones.plainmamba import PlainMamba
from mmbackbones.backbones.plainmamba_adapter import TrunkOptions
from mmbackbones.errors import InputError
from mmbackbones.layers.position import resize_position
from mmbackbones.registry import MODELS

MODELS.import_from_location()

PLAIN = dict(arch=dict(embed_dims=16, depth=3, d_state=4), out_indices=(0, 2))
LOCAL = dict(PLAIN, arch=dict(PLAIN['arch'], directions='h v_flip w2 w7_flip'))
LOCAL_TOKEN = dict(LOCAL, arch=dict(LOCAL['arch'], cls_token=True), scan_inverse='exact', block_norm='layer')
CONVS = dict(PLAIN, arch=dict(PLAIN['arch'], dwconv_blocks=(0,)))
ADAPTER = dict(
    arch=dict(embed_dims=16, depth=4, d_state=4),
    num_heads=2,
    num_groups=2,
    conv_width=4,
    init_value=0.1,
    norm_cfg=dict(type='BN'),
)
STAGED = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1))
HYBRID = dict(STAGED, stem_width=8, num_heads=(4, 4), layer_scale=1e-2, d_state=4)
FOVEAL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 3))
HEADS = dict(STAGED, num_heads=(2, 3, 2, 2))
MIXED = dict(arch=STAGED, mixers=('identity', 'pointwise:ss2d', ('ss2d', 'causal-attn'), 'bissm'), d_state=4)
ISOTROPIC = dict(
    arch=dict(embed_dims=16, depth=3), mixers=('attn', 'ssm-reversed', 'ssm'), d_state=4, out_indices=(0, 2)
)
TIMM = {
    'ConvNeXt': dict(name='convnext_atto', **STAGED),
    'Swin': dict(name='swin_tiny_patch4_window7_224', embed_dim=8, depths=(2, 1, 2, 2), num_heads=(1, 1, 2, 2)),
    'PVTv2': dict(name='pvt_v2_b0', embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2)),
    'FocalNet': dict(name='focalnet_tiny_lrf', embed_dim=8, depths=(1, 1, 2, 1), focal_levels=(3,) * 4),
    'ConvFormer': dict(name='convformer_s18', **STAGED),
    'CAFormer': dict(name='caformer_s18', **{**STAGED, 'dims': (8, 16, 32, 64)}),
    'Twins-SVT': dict(
        name='twins_svt_small', embed_dims=(8, 8, 16, 16), depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 2), wss=(7,) * 4
    ),
    'Twins-PCPVT': dict(
        name='twins_pcpvt_small', embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2)
    ),
    'ResNet': dict(name='resnet50', layers=(1, 1, 2, 1), channels=(4, 6, 8, 12)),
}
DEIT = dict(arch=dict(name='deit_tiny_patch16_224', embed_dim=16, depth=3, num_heads=2), out_indices=(0, 2))
# Name -> configuration, small. Nets with a position table, whose grid is in
# their attribute ``grid``, name another image size for the round trip of state dicts.
ROWS = {
    'EfficientVMamba': (dict(type='EfficientVMamba', arch=dict(STAGED, d_state=4)), {}),
    'GatedMixerNet': (dict(type='GatedMixerNet', **MIXED), {}),
    'HViTTT': (dict(type='HViTTT', arch=HEADS), {}),
    'IsotropicMixerNet': (dict(type='IsotropicMixerNet', **ISOTROPIC), dict(img_size=(112, 144))),
    'IsotropicMixerNet, no position': (dict(type='IsotropicMixerNet', position=False, **ISOTROPIC), {}),
    'LocalVMamba': (dict(type='LocalVMamba', arch=dict(STAGED, d_state=4, directions='h v_flip w2 w7_flip')), {}),
    'LocalVim': (dict(type='LocalVim', **LOCAL), dict(img_size=(112, 144))),
    'LocalVim, class token': (dict(type='LocalVim', **LOCAL_TOKEN), dict(img_size=(112, 144))),
    'Mamba': (dict(type='Mamba', **PLAIN), dict(img_size=(112, 144))),
    'MILA': (dict(type='MILA', arch=dict(STAGED, num_heads=(2, 3, 4, 4))), {}),
    'MambaOut': (dict(type='MambaOut', arch=STAGED), {}),
    'MambaVision': (dict(type='MambaVision', arch=HYBRID, window_size=(4, 2)), {}),
    'PlainMamba': (dict(type='PlainMamba', **CONVS), dict(img_size=(112, 144))),
    'PlainMambaAdapter': (dict(type='PlainMambaAdapter', **ADAPTER), dict(img_size=(112, 144))),
    'SpatialMamba': (dict(type='SpatialMamba', arch=STAGED), {}),
    'RAVLT': (dict(type='RAVLT', arch=dict(HEADS, num_heads=(1, 1, 2, 2))), {}),
    **{f'TimmBackbone, {family}': (dict(type='TimmBackbone', arch=arch), {}) for family, arch in TIMM.items()},
    'TimmBackbone, DeiT': (dict(type='TimmBackbone', **DEIT), {}),
    'TransNeXt': (dict(type='TransNeXt', arch=FOVEAL, norm_cfg=None), {}),
    'TransNeXt, true distances': (dict(type='TransNeXt', arch=FOVEAL, norm_cfg=None, position_bias='extrapolated'), {}),
    'Vim': (dict(type='Vim', **PLAIN), dict(img_size=(112, 144))),
    'Vim, class token': (dict(type='Vim', with_cls_token=True, **PLAIN), dict(img_size=(112, 144))),
    'Vim, mixer feature, rope': (dict(type='Vim', out_feature='mixer', rope=True, **PLAIN), dict(img_size=96)),
    'Vim, layer': (dict(type='Vim', bidirection='layer', **PLAIN), {}),
    'Vim, ssm': (dict(type='Vim', bidirection='ssm', **PLAIN), {}),
    'Vim, stride 8': (dict(type='Vim', arch=dict(PLAIN['arch'], stride=8), out_indices=(2,)), dict(img_size=80)),
    'VMamba': (dict(type='VMamba', arch=STAGED), {}),
    'VSSD': (dict(type='VSSD', arch=dict(STAGED, num_heads=(2, 3, 4, 4), d_state=4)), {}),
    'VMamba, first version': (dict(type='VMamba', arch=dict(STAGED, gate=True, patches=True, mlp_ratio=0)), {}),
}

NORM_EPS = dict.fromkeys(
    ('EfficientVMamba', 'HViTTT', 'LocalVMamba', 'LocalVim', 'MILA', 'MambaVision', 'SpatialMamba', 'VMamba', 'VSSD'),
    1e-5,
)
rows = pytest.mark.parametrize('config, resized', ROWS.values(), ids=ROWS)


def build(config, **overrides):
    torch.manual_seed(0)
    backbone = MODELS.build({**config, **overrides, 'type': f'mmbackbones.{config["type"]}'})
    backbone.init_weights()
    return backbone


def image(height=64, width=80):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def loss_of(outs):
    """A loss to which every channel of every map matters."""
    generator = torch.Generator().manual_seed(2)
    return sum((out * torch.randn(out.shape, generator=generator)).mean() for out in outs)


def fill_position_table(backbone):
    """A large table that is smooth on the grid, so that resizing keeps what it says and a wrong one shows."""
    table = resize_position(5 * torch.randn(1, 4, backbone.pos_embed.shape[2]), (2, 2), backbone.grid)
    middle = table.shape[1] // 2
    if backbone.pos_embed.shape[1] > table.shape[1]:
        table = torch.cat((table[:, :middle], backbone.cls_token.detach(), table[:, middle:]), dim=1)
    backbone.pos_embed.data.copy_(table)


def test_every_backbone_has_a_row():
    registered = {name for name, cls in MODELS.module_dict.items() if issubclass(cls, Backbone)}
    assert registered == {config['type'] for config, _ in ROWS.values()}


@pytest.mark.parametrize('height, width', [(31, 31), (112, 137), (224, 224), (224, 320)])
@rows
def test_maps(config, resized, height, width):
    backbone = build(config).eval()
    with torch.no_grad():
        outs = backbone(image(height, width)[:1])
    assert isinstance(outs, tuple)
    assert len(outs) == len(backbone.out_channels) == len(backbone.out_strides)
    for out, channels, stride in zip(outs, backbone.out_channels, backbone.out_strides):
        assert out.shape[:2] == (1, channels) and out.dtype == torch.float32 and out.is_contiguous()
        assert out.isfinite().all() and out.std() > 0
        for size, side in zip(out.shape[2:], (height, width)):
            assert abs(size - side / stride) < 1


@rows
def test_every_parameter_learns(config, resized):
    """After one step, so that what starts at zero behind a zero has left it."""
    backbone = build(config).train()
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(backbone(image())).backward()
        optimizer.step()
    idle = [
        name
        for name, parameter in backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or parameter.grad.abs().max() == 0
    ]
    assert not idle


@rows
def test_checkpointing_changes_nothing(config, resized):
    """Maps, gradients, and the running statistics, which the second computation must not move once more."""
    results, statistics = [], []
    for with_cp in (False, True):
        backbone = build(config, with_cp=with_cp, drop_path_rate=0.3).train()
        torch.manual_seed(3)
        x = image().requires_grad_()
        saved = []

        def keep(tensor, saved=saved):
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outs = backbone(x)
        loss_of(outs).backward()
        results.append((outs, {'x': x.grad, **{n: p.grad for n, p in backbone.named_parameters()}}, sum(saved)))
        statistics.append({name: value for name, value in backbone.named_buffers() if 'running' in name})
    (outs, gradients, saved), (cp_outs, cp_gradients, cp_saved) = results
    for one, other in zip(outs, cp_outs):
        torch.testing.assert_close(one, other)
    assert gradients.keys() == cp_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, cp_gradients[name], msg=lambda m, n=name: f'{n}: {m}')
    assert cp_saved < saved
    for name, value in statistics[0].items():
        torch.testing.assert_close(value, statistics[1][name], msg=lambda m, n=name: f'{n}: {m}')


@rows
def test_state_dict_at_another_resolution(config, resized):
    donor = build(config).eval()
    if resized:
        fill_position_table(donor)
    torch.manual_seed(4)
    heir = MODELS.build({**config, **resized, 'type': f'mmbackbones.{config["type"]}'}).eval()
    heir.load_state_dict(donor.state_dict())
    for name, parameter in donor.named_parameters():
        if name != 'pos_embed' or not resized:
            assert torch.equal(parameter, heir.state_dict()[name]), name
    x = image(144, 112)
    with torch.no_grad():
        for one, other in zip(donor(x), heir(x)):
            assert one.shape == other.shape
            # A table resized twice is not quite the table resized once.
            assert (one - other).abs().mean() < (0.1 if resized else 1e-6) * one.abs().mean()


@rows
def test_what_lies_past_the_last_map_is_not_built(config, resized):
    """And what is there is the whole net's, its keys named in excess."""
    if 'out_indices' not in inspect.signature(MODELS.get(config['type'])).parameters:
        pytest.skip('all maps belong together')
    whole = build(config).eval()
    part = build(config, out_indices=whole.out_indices[:1]).eval()
    sizes = [sum(p.numel() for p in net.parameters()) for net in (part, whole)]
    assert sizes[0] < sizes[1] or len(whole.out_indices) == 1
    report = part.load_state_dict(whole.state_dict(), strict=False)
    assert not report.missing_keys
    assert all(key.startswith((*part.allowed_unexpected, *part.allowed_missing)) for key in report.unexpected_keys)
    assert part.out_channels == whole.out_channels[:1] and part.out_strides == whole.out_strides[:1]
    with torch.no_grad():
        torch.testing.assert_close(part(image())[0], whole(image())[0])


@rows
def test_our_own_names_pass_through(config, resized):
    if config['type'] == 'TimmBackbone':
        pytest.skip("timm's converter takes classifiers alone; the initializer spares our own names")
    backbone = build(config)
    weights = backbone.state_dict()
    assert backbone.convert_state_dict(dict(weights)).keys() == weights.keys()


@rows
def test_frozen_stages(config, resized):
    backbone = build(config, frozen_stages=1).train()
    frozen = {id(p) for group in backbone.freezable_modules()[:2] for m in group for p in m.parameters()}
    assert frozen
    loss_of(backbone(image())).backward()
    for name, parameter in backbone.named_parameters():
        if id(parameter) in frozen:
            assert parameter.grad is None, name
        elif not name.endswith(('pos_embed', 'cls_token')):
            assert parameter.grad is not None, name


@rows
def test_layer_depths_ascend(config, resized):
    backbone = build(config)
    names = dict(backbone.named_parameters())
    layers = {backbone.get_layer_depth(f'backbone.{name}', 'backbone.') for name in names}
    (total,) = {total for _, total in layers}
    depths = {layer for layer, _ in layers}
    assert min(depths) == 0 and max(depths) == total - 1
    assert backbone.no_weight_decay() <= names.keys()
    stem = {id(p) for m in backbone.freezable_modules()[0] for p in m.parameters()}
    assert all(backbone.get_layer_depth(name)[0] == 0 for name, p in names.items() if id(p) in stem)


@rows
def test_norm_of_the_maps(config, resized):
    """Not given: the family's LayerNorm. None: none. A dict: mmcv's."""
    if 'norm_cfg' in config:
        pytest.skip('it has norms of its own')
    plain, batch = build(config), build(config, norm_cfg=dict(type='BN'))
    for i in plain.out_indices:
        norm = getattr(plain, f'outnorm{i}')
        assert isinstance(norm, torch.nn.LayerNorm) and norm.eps == NORM_EPS.get(config['type'], 1e-6)
        assert isinstance(getattr(batch, f'outnorm{i}'), torch.nn.BatchNorm2d)
    assert not any(key.startswith('outnorm') for key in build(config, norm_cfg=None).state_dict())
    with pytest.raises(InputError, match=f"{config['type']}.*: norm_cfg='BN', expected one of LN"):
        build(config, norm_cfg='BN')


@rows
def test_a_misspelt_option_is_an_error_that_names_the_known_ones(config, resized):
    """mmengine builds by the class, so that the message reaches a command's last line."""
    with pytest.raises(TypeError) as caught:
        build(config, drop_path=0.1)
    message = str(caught.value)
    said, _, known = message.partition('; known: ')
    assert said == f"{config['type']}.__init__() got an unexpected keyword argument 'drop_path'"
    shared = {'arch', 'drop_path_rate', 'frozen_stages', 'with_cp', 'norm_cfg', 'init_cfg'}
    assert shared | config.keys() - {'type'} <= set(known.split(', '))


@rows
def test_bad_options(config, resized):
    bad = [dict(drop_path_rate=1.0), dict(frozen_stages=99)]
    if 'out_indices' in inspect.signature(MODELS.get(config['type'])).parameters:
        bad += [dict(out_indices=indices) for indices in ((), (0, 99), (1, 0), (0, 0), (-1,))]
    for options in bad:
        (name,) = options
        with pytest.raises(InputError, match=f'{config["type"]}.*: {name}=') as caught:
            build(config, **options)
        assert '\n' not in str(caught.value)


@rows
def test_bad_arch(config, resized):
    """An unknown name, and an unknown key, which the message names."""
    cls = MODELS.get(config['type'])
    with pytest.raises(InputError, match=f'{config["type"]}: .*hugest'):
        build(config, arch='hugest')
    with pytest.raises(InputError, match=f'{config["type"]}.*widthh'):
        build(config, arch=dict(config['arch'], widthh=3))
    if cls.arch_required:
        with pytest.raises(InputError, match=f"{cls.__name__}: arch lacks '{cls.arch_required[0]}' and"):
            build(config, arch={})


@rows
def test_bad_images(config, resized):
    backbone = build(config)
    with pytest.raises(InputError, match=f'{config["type"]}.*: image 1x64 is smaller than the stem, '):
        backbone(image(1, 64))
    for x in (image()[0], image().to(torch.uint8)):
        with pytest.raises(InputError, match=f'{config["type"]}.*: expected a float image batch '):
            backbone(x)


@pytest.mark.parametrize(
    'cls, options, others',
    [
        (Backbone, RunOptions, set()),
        (PlainBackbone, PlainRunOptions, set()),
        (PlainMamba, TrunkOptions, {'out_indices', 'out_feature', 'out_type', 'norm_cfg'}),
    ],
    ids=lambda x: getattr(x, '__name__', ''),
)
def test_typed_keywords_are_those_of_the_constructor(cls, options, others):
    assert options.__required_keys__ == frozenset()
    assert options.__optional_keys__ == inspect.signature(cls).parameters.keys() - others


def test_every_arch_of_every_class_is_a_class_attribute():
    """So that classes and their archs can be listed; the default is one of them."""
    for name, cls in MODELS.module_dict.items():
        if issubclass(cls, Backbone) and cls.archs:
            assert cls.default_arch in cls.archs, name
            assert all(cls.resolve_arch(arch) for arch in cls.archs), name
