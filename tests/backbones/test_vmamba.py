"""VMamba against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from timm.layers import DropPath
from torch import nn

from mmbackbones.analysis.complexity.count import count_complexity
from mmbackbones.backbones import VMamba
from mmbackbones.backbones.vmamba import VSSBlock
from mmbackbones.checkpoints.adapters.vmamba import convert_vmamba
from mmbackbones.checkpoints.layout import convert_whole_model
from mmbackbones.engine.optim import OptimWrapperConstructor
from mmbackbones.errors import InputError
from tests.backbones.staged_cases import (
    HEADS_MACS,
    build_whole,
    check_published_keys,
    compare,
    load_case,
    load_weights,
    whole_config,
    whole_macs,
)

CASES = ['s1_nonsquare', 's2_nonsquare', 'odd_size', 'eps', 'vanilla_v0']
PUBLISHED = ['tiny_s1l8', 'tiny_s2l5', 'small_s2l15', 'small_s1l20', 'base_s2l15', 'base_s1l20']
SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1))
V0 = dict(SMALL, d_state=4, mlp_ratio=0, conv_bias=True, gate=True, patches=True)


def build_like(options):
    first = options['forward_type'] == 'v0'
    return VMamba(
        arch=dict(
            dims=options['dims'],
            depths=options['depths'],
            ssm_ratio=options['ssm_ratio'],
            d_state=options['ssm_d_state'],
            mlp_ratio=options['mlp_ratio'],
            conv_bias=options['ssm_conv_bias'],
            gate=first,
            patches=first,
        )
    )


@pytest.mark.parametrize('name', CASES)
def test_golden(name, backend):
    case = load_case(f'vmamba_{name}')
    compare(build_like(case.options), case)


def test_golden_rejects_another_direction_order():
    case = load_case('vmamba_odd_size')
    for key, value in case.weights.items():
        if key.endswith('.x_proj_weight'):
            case.weights[key] = value[[0, 2, 1, 3]]
    with pytest.raises(AssertionError, match=r'downsample\.0'):
        compare(build_like(case.options), case)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_keys(name):
    check_published_keys(VMamba, name, f'vmamba_{name}')


@pytest.mark.parametrize('arch, millions', [('tiny_v0', 23), ('small_v0', 44), ('base_v0', 76)])
def test_first_version_sizes(arch, millions):
    """With the classifier's head, as the authors' performance.md counts."""
    with torch.device('meta'):
        model = VMamba(arch=arch, norm_cfg=None)
    width = model.out_channels[-1]
    assert round((sum(p.numel() for p in model.parameters()) + 2 * width + 1000 * (width + 1)) / 1e6) == millions


def older_layout(weights, arch):
    """The single-file version's projections and 1x1 kernels; for the first version also the oldest names."""
    old = {}
    for key, value in weights.items():
        if key.endswith(('.x_proj_weight', '.dt_projs_weight')):
            key, value = key.removesuffix('_weight') + '.weight', value.flatten(0, 1)
        elif key.endswith(('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight')):
            value = value[:, :, None, None]
        if arch is V0:
            for new_name, old_name in (
                ('patch_embed.0', 'patch_embed.proj'),
                ('patch_embed.2', 'patch_embed.norm'),
                ('.op.', '.self_attention.'),
                ('0.norm.', '0.ln_1.'),
                ('1.norm.', '1.ln_1.'),
            ):
                key = key.replace(new_name, old_name)
        old[key] = value
    return old | {'norm.weight': torch.ones(1), 'head.weight': torch.ones(1)}


@pytest.mark.parametrize('arch', [SMALL, V0], ids=['v2', 'v0'])
def test_older_layouts(arch):
    donor, heir = VMamba(arch=arch), VMamba(arch=arch)
    weights = donor.state_dict()
    old = older_layout(weights, arch)
    assert not old.keys() >= weights.keys()
    load_weights(heir, old)
    assert all(torch.equal(value, heir.state_dict()[key]) for key, value in weights.items())


@pytest.mark.parametrize(
    'arch, detector, segmentor',
    [
        ('tiny_s1l8', 50, 62),
        ('tiny_s2l5', 50, 62),
        ('small_s2l15', 70, 82),
        ('base_s2l15', 108, 122),
        ('tiny_v0', 42, 55),
        ('small_v0', 64, 76),
        ('base_v0', 96, 110),
    ],
)
def test_published_sizes(arch, detector, segmentor):
    """Millions of parameters in the authors' tables (assets/performance.md)."""
    for task, millions in (('det', detector), ('seg', segmentor)):
        assert round(sum(p.numel() for p in build_whole(task, VMamba, arch).parameters()) / 1e6) == millions


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_released_whole_models_fit(task):
    """The authors' detectors and segmentors: their backbone's names, mm's names for neck and heads."""
    weights = build_whole(task, VMamba, SMALL).state_dict()
    released = {}
    for key, value in weights.items():
        if key.endswith(('.x_proj_weight', '.dt_projs_weight')):
            key, value = key.removesuffix('_weight') + '.weight', value.flatten(0, 1)
        released[key] = value
    assert released.keys() != weights.keys()
    converted = convert_whole_model(released, convert_vmamba)
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in weights.items()}


def test_stages_past_the_last_map_are_not_built():
    whole, part = VMamba(arch=SMALL), VMamba(arch=SMALL, out_indices=(0, 2))
    weights = {key: value for key, value in whole.state_dict().items() if not key.startswith('outnorm')}
    load_weights(part, weights | {'classifier.norm.weight': torch.ones(24)})
    assert part.out_channels == (8, 16) and part.out_strides == (4, 16)
    assert not any(key.startswith(('layers.3', 'layers.2.downsample')) for key in part.state_dict())
    x = torch.randn(1, 3, 64, 48)
    for one, other in zip(part.eval()(x), whole.eval()(x)[::2]):
        torch.testing.assert_close(one, other)


def test_drop_path_grows_linearly():
    model = VMamba(arch=SMALL, drop_path_rate=0.4)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_weight_decay_groups():
    model = nn.ModuleDict(dict(backbone=VMamba(arch=SMALL)))
    wrapper = OptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05))
    )(model)
    assert isinstance(wrapper, OptimWrapper)
    undecayed = {id(p) for group in wrapper.param_groups if group['weight_decay'] == 0 for p in group['params']}
    names = {name for name, p in model.named_parameters() if id(p) in undecayed}
    states = {name for name, _ in model.named_parameters() if name.endswith(('A_logs', 'Ds'))}
    assert len(states) == 10 and states <= names
    assert all('norm' in name or 'patch_embed' in name or 'downsample.3' in name for name in names - states)
    assert {'backbone.patch_embed.2.weight', 'backbone.layers.0.blocks.0.op.out_norm.weight'} <= names


def test_layer_depth_of_downsampling_is_that_of_the_block_after_it():
    model = VMamba(arch=SMALL)
    assert model.get_layer_depth('layers.1.downsample.1.weight') == model.get_layer_depth('layers.2.blocks.0.op.Ds')
    assert model.get_layer_depth('layers.2.blocks.1.op.Ds') == (4, 7)
    assert model.get_layer_depth('outnorm3.weight') == (6, 7)


@pytest.mark.parametrize('arch', [SMALL, V0], ids=['v2', 'v0'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(arch, dtype):
    """Steps up to 100 and a scan far beyond half precision: finite, and the residual stream stays float32."""
    torch.manual_seed(0)
    model = VMamba(arch=arch).train()
    largest, stream = {}, []

    def watch(name):
        def hook(module, inputs, output):
            assert output.dtype in (dtype, torch.float32)
            if output.dtype == dtype:
                largest[name] = output.abs().max().item()

        return hook

    for name, module in model.named_modules():
        if name.endswith('.op'):
            module.dt_projs_bias.data.uniform_(-5, 100)
            module.Ds.data.fill_(1e5)
            module.in_proj.weight.data.normal_()
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(watch(name))
        if isinstance(module, VSSBlock):
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    x = 300 * torch.randn(1, 3, 96, 64)
    with torch.autocast('cpu', dtype=dtype):
        outs = model(x)
    assert stream == 5 * [torch.float32]
    assert len(largest) > 15 and max(largest.values()) < 65504
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_long_sequence_with_large_steps():
    """16,384 tokens in the first stage, steps up to 100 and large activations, in bf16."""
    torch.manual_seed(0)
    model = VMamba(arch=dict(SMALL, dims=(8, 8, 8, 8)), out_indices=(0,)).train()
    scan = model.layers[0].blocks[0].op
    scan.dt_projs_bias.data.uniform_(-5, 100)
    scan.in_proj.weight.data.normal_()
    seen = []
    scan.conv2d.register_forward_hook(lambda module, inputs, output: seen.append(output.abs().max().item()))
    scan.out_norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (out,) = model(300 * torch.randn(1, 3, 512, 512))
    out.float().square().mean().backward()
    assert seen[0] > 1 and seen[1] == 16384
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='tiny'), 'VMamba: unknown arch .tiny.; known: tiny_s1l8, .*base_v0, or a dict'),
        (dict(arch=dict(SMALL, ssm_dstate=1)), "unknown keys 'ssm_dstate'; known: dims, depths, ssm_ratio"),
        (dict(arch=dict(dims=8)), "VMamba: arch lacks 'depths'"),
        (dict(arch=dict(dims=8, depths=(1, 1))), r'arch depths=\(1, 1\), expected 4 positive numbers'),
        (dict(arch=SMALL, out_indices=(0, 4)), r'out_indices=\(0, 4\), expected ascending stages out of 0..3'),
        (dict(arch=SMALL, drop_path_rate=1.0), 'drop_path_rate=1.0, expected 0 or more and below 1'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        VMamba(**options)


def test_named_architectures_are_all_tested():
    assert set(VMamba.archs) == {*PUBLISHED, 'tiny_v0', 'small_v0', 'base_v0'}


MACS = {  # the authors' assets/performance.md; small in the detector from the paper's Table 2, which corrects 384
    'tiny_s1l8': (271, 949),
    'tiny_s2l5': (270, 948),
    'small_s2l15': (349, 1028),
    'base_s2l15': (485, 1170),
    'tiny_v0': (286, 964),
    'small_v0': (400, 1081),
    'base_v0': (540, 1226),
}


@pytest.mark.parametrize(
    'arch',
    [
        arch if arch in ('tiny_s1l8', 'base_s2l15', 'tiny_v0') else pytest.param(arch, marks=pytest.mark.full)
        for arch in MACS
    ],
)
def test_published_macs(arch):
    """GMACs to the last printed digit."""
    assert tuple(map(round, whole_macs(VMamba(arch=arch)))) == MACS[arch]


@pytest.mark.full
@pytest.mark.parametrize('task', ['det', 'seg'])
@pytest.mark.parametrize('arch', ['tiny_s1l8', 'base_s2l15'])
def test_macs_around_the_backbone(task, arch):
    cfg = whole_config(task, VMamba, arch)
    if task == 'seg':
        cfg.merge_from_dict({f'model.{head}.norm_cfg.type': 'BN' for head in ('decode_head', 'auxiliary_head')})
    macs = count_complexity(cfg).macs
    width = cfg.model.neck.in_channels[0] if task == 'det' else cfg.model.decode_head.in_channels[0]
    assert (macs['total'] - macs['backbone']) / 1e9 == pytest.approx(HEADS_MACS[width][task], abs=1e-4)
