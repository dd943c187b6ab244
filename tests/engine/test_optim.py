"""Parameter groups: who decays, who does not, and how fast each layer learns."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmbackbones.backbones.mambaout import MambaOut
from mmbackbones.engine.optim import NORMS
from mmbackbones.errors import InputError


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = MambaOut(arch=dict(depths=(1, 1, 2, 1), dims=(8, 8, 8, 8)))
        self.backbone.pos_embed = nn.Parameter(torch.zeros(1, 4))
        self.backbone.no_weight_decay = lambda: {'pos_embed'}
        self.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.RMSNorm(8))


def groups(model, **paramwise):
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmbackbones.OptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            paramwise_cfg=paramwise,
        ),
    )
    by_parameter = {parameter: group for group in wrapper.optimizer.param_groups for parameter in group['params']}
    return {name: by_parameter[parameter] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_norms_and_named_parameters_do_not_decay_and_biases_do():
    found = groups(Detector())
    undecayed = {name for name, group in found.items() if group['weight_decay'] == 0}
    expected = {name for name in found if 'norm' in name} | {
        'backbone.pos_embed',
        'head.1.weight',
        'head.1.bias',
        'head.2.weight',
    }
    assert undecayed == expected
    assert found['head.0.bias']['weight_decay'] == found['head.0.weight']['weight_decay'] == 0.05


def test_every_trainable_parameter_is_in_one_group():
    model = Detector()
    model.backbone.stem.requires_grad_(False)
    found = groups(model)
    assert set(found) == {name for name, _ in model.named_parameters() if not name.startswith('backbone.stem')}


def test_layer_decay_follows_depth_and_spares_the_head():
    found = groups(Detector(), layer_decay_rate=0.5)
    depth = 7  # stem, five blocks, output norms
    assert found['backbone.stem.conv1.weight']['lr'] == pytest.approx(1e-3 * 0.5 ** (depth - 1))
    assert found['backbone.stages.2.blocks.1.fc1.weight']['lr'] == pytest.approx(1e-3 * 0.5 ** (depth - 5))
    assert found['backbone.stages.3.downsample.conv.weight']['lr'] == pytest.approx(1e-3 * 0.5)
    assert found['backbone.outnorm3.weight']['lr'] == found['head.0.weight']['lr'] == 1e-3


def test_custom_keys_and_bias_rule():
    found = groups(
        Detector(), bias_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0), 'head.0': dict(lr_mult=2.0)}
    )
    assert found['head.0.weight']['lr'] == pytest.approx(2e-3)
    assert found['head.1.weight']['lr'] == pytest.approx(1e-2)
    assert found['backbone.stages.0.blocks.0.fc1.bias']['weight_decay'] == 0


def test_unknown_option_is_named():
    with pytest.raises(InputError, match=r'paramwise_cfg\.nrom_decay_mult: unknown; known: norm_decay_mult'):
        groups(Detector(), nrom_decay_mult=0.0)


@pytest.mark.parametrize(
    ('backbone', 'undecayed'),
    [
        (
            dict(type='mmbackbones.Vim', arch=dict(embed_dims=16, depth=2, patch_size=8), out_indices=(1,)),
            {'A_log', 'A_b_log', 'D', 'D_b', 'pos_embed'},
        ),
        (
            dict(type='mmbackbones.Mamba', arch=dict(embed_dims=16, depth=2, patch_size=8), out_indices=(1,)),
            {'A_log', 'D', 'pos_embed'},
        ),
        (dict(type='mmbackbones.VMamba', arch=dict(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1))), {'A_logs', 'Ds'}),
    ],
)
def test_state_space_parameters_do_not_decay(backbone, undecayed):
    model = nn.Module()
    model.backbone = MODELS.build(backbone)
    found = groups(model)
    norms = {
        f'{name}.{part}'
        for name, module in model.named_modules()
        if isinstance(module, NORMS)
        for part in ('weight', 'bias')
    }
    for name, group in found.items():
        assert (group['weight_decay'] == 0) == (name in norms or name.rsplit('.', 1)[-1] in undecayed), name
    assert {name.rsplit('.', 1)[-1] for name, group in found.items() if not group['weight_decay']} >= undecayed
