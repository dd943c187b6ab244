"""PlainMamba's adapter: the published size, mmcv's attention, and what is known of it without recorded activations."""

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmengine.registry import MODELS, init_default_scope

from mmbackbones.analysis.complexity.count import count_complexity
from mmbackbones.backbones import PlainMamba, PlainMambaAdapter
from mmbackbones.backbones.plainmamba_adapter import DeformableAttention, centres
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from tests.conftest import ROOT

TINY = dict(
    arch=dict(embed_dims=16, depth=4, d_state=4), num_heads=2, num_groups=2, conv_width=4, norm_cfg=dict(type='BN')
)


def native(arch):
    return load_config(str(ROOT / f'configs/plainmamba/native/mask-rcnn_plainmamba-{arch}_adapter_8xb2-1x_coco.py'))


@pytest.mark.parametrize('arch, millions, giga', [('l1', 31, 388), ('l2', 53, 542), ('l3', 79, 696)])
def test_published_size_of_the_detector(arch, millions, giga):
    """The authors' README, which cuts decimals off; MambaOut's and MILA's tables for the MACs, 800x1280."""
    counts = count_complexity(native(arch))
    assert counts.params['total'] // 10**6 == millions
    assert counts.macs['total'] == pytest.approx(giga * 1e9, rel=0.005)


def test_attention_is_that_of_mmcv():
    torch.manual_seed(0)
    theirs = MultiScaleDeformableAttention(8, 2, 2, 3, dropout=0.0, batch_first=True)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = DeformableAttention(8, 2, 2, 3, dropout=0.0)
    ours.load_state_dict(theirs.state_dict())
    grids, feat_grids = [(3, 5), (2, 2)], [(4, 7), (2, 3)]
    query, feat = torch.randn(2, 19, 8), torch.randn(2, 34, 8)
    points, shapes = centres(grids, query.device), torch.tensor(feat_grids)
    expected = theirs(
        query,
        value=feat,
        identity=torch.zeros(()),
        reference_points=points.expand(2, -1, 2, -1),
        spatial_shapes=shapes,
        level_start_index=torch.tensor([0, 28]),
    )
    torch.testing.assert_close(ours(query, points, feat, feat_grids), expected)


def test_centres():
    points = centres([(2, 3)], torch.device('cpu'))
    assert points.shape == (1, 6, 1, 2)
    torch.testing.assert_close(
        points[0, :, 0],
        torch.tensor([[1 / 6, 1 / 4], [3 / 6, 1 / 4], [5 / 6, 1 / 4], [1 / 6, 3 / 4], [3 / 6, 3 / 4], [5 / 6, 3 / 4]]),
    )


@torch.no_grad()
def test_at_first_the_trunk_is_plainmamba():
    """The injectors start at zero: the last block gives what the trunk alone gives, with the same weights."""
    torch.manual_seed(0)
    model = PlainMambaAdapter(**TINY).eval()
    trunk = PlainMamba(arch=TINY['arch'], out_indices=(3,), norm_cfg=None).eval()
    missing, _ = trunk.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    image, last = torch.randn(1, 3, 75, 109), []
    model.layers[-1].register_forward_hook(lambda module, inputs, output: last.append(output[0]))
    outs = model(image)
    torch.testing.assert_close(last[0].transpose(1, 2).unflatten(2, (5, 7)), trunk(image)[0])
    assert [tuple(out.shape[2:]) for out in outs] == [(19, 28), (10, 14), (5, 7), (3, 4)]


def test_names_of_the_authors():
    names = PlainMambaAdapter(**TINY).state_dict().keys()
    assert {
        'level_embed',
        'spm.stem.6.weight',
        'spm.conv4.0.weight',
        'spm.fc4.bias',
        'up.weight',
        'ad_norm4.bias',
        'interactions.0.injector.gamma',
        'interactions.0.injector.attn.sampling_offsets.weight',
        'interactions.1.extractor.ffn.dwconv.dwconv.weight',
        'interactions.1.extra_extractors.1.ffn_norm.bias',
    } <= names
    assert 'interactions.0.extra_extractors.0.ffn_norm.bias' not in names


def test_classifier_loads_and_the_adapter_stays_fresh(tmp_path):
    donor = PlainMamba(arch=TINY['arch'], out_indices=(3,))
    weights = {
        f'backbone.{key}'.replace('.mixer.', '.mamba.').replace('outnorm3', 'ln1'): value
        for key, value in donor.state_dict().items()
        if key != 'pos_grid'
    }
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'l1.pth')
    model = PlainMambaAdapter(**TINY, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'l1.pth')))
    model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in donor.state_dict().items() if key in own)


def test_native_recipe():
    cfg = native('l3')
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, 'init_cfg': None}})
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    assert 'level_embed' in model.backbone.no_weight_decay()
    assert cfg.optim_wrapper.type == 'OptimWrapper' and cfg.param_scheduler[0].end == 500


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_groups=3), 'PlainMambaAdapter: num_groups=3, expected a divisor of the 4 blocks'),
        (dict(num_heads=3), 'PlainMambaAdapter: num_heads=3, expected a divisor of the width 16'),
        (dict(arch='L4'), "PlainMambaAdapter: unknown arch 'L4'; known: L1, L2, L3, or a dict"),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        PlainMambaAdapter(**{**TINY, **options})
