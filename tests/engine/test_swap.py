"""``--backbone NAME`` on configs that have a backbone already; tests/configs holds the task configs to the zoo."""

import pytest

from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.zoo.create import shape_only
from mmbackbones.zoo.models import miniature_names
from tests.configs.test_common_recipe import text
from tests.conftest import ROOT

CONFIGS = ROOT / 'configs'
DETECTOR = CONFIGS / 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'
PLAIN_DETECTOR = CONFIGS / 'vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py'
SEGMENTOR = CONFIGS / 'mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
PLAIN_SEGMENTOR = CONFIGS / 'vim/vim-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'


@pytest.mark.parametrize(
    ('hierarchical', 'plain'), [(DETECTOR, PLAIN_DETECTOR), (SEGMENTOR, PLAIN_SEGMENTOR)], ids=['detector', 'segmentor']
)
def test_there_and_back(hierarchical, plain):
    assert text(load_config(hierarchical, backbone='vim_tiny')) == text(load_config(plain))
    assert text(load_config(plain, backbone='mambaout_tiny')) == text(load_config(hierarchical))
    assert text(load_config(plain, backbone='vim_tiny')) == text(load_config(plain))


def test_a_context_free_head_takes_all_maps_side_by_side():
    path = CONFIGS / 'controlled/gated-tiny_fcn-1x1_8xb2-amp-160k_ade20k-512x512.py'
    hierarchical, plain = (load_config(path, backbone=name).model for name in ('mambaout_base', 'vim_tiny'))
    assert hierarchical.decode_head.in_channels == [128, 256, 512, 768] and hierarchical.decode_head.channels == 1664
    assert plain.decode_head.in_channels == [192] * 4 and plain.decode_head.channels == 768
    assert 'neck' not in plain and plain.auxiliary_head is None


def test_overrides_apply_to_the_new_backbone():
    cfg = load_config(DETECTOR, {'model.backbone.window_size': (56, 28)}, 'mambavision_tiny')
    assert cfg.model.backbone.window_size == (56, 28) and cfg.model.backbone.type == 'mmbackbones.MambaVision'


@pytest.mark.parametrize(
    ('change', 'path', 'message'),
    [
        (
            '',
            CONFIGS / 'vim/native/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py',
            'the recipe of one network by its authors',
        ),
        ("model = dict(neck=dict(type='BFP'))", DETECTOR, 'model.neck.type=BFP, expected FPN or mmbackbones.Simple'),
        ("model = dict(neck=dict(type='JPU'))", SEGMENTOR, 'model.neck.type=JPU, expected none or Feature2Pyramid'),
        (
            "model = dict(decode_head=dict(type='PSPHead'))",
            SEGMENTOR,
            'model.decode_head.type=PSPHead, expected UPerHead',
        ),
        ('model = dict(decode_head=[{}, {}])', SEGMENTOR, 'model.decode_head is a list of 2 heads, expected one'),
        (
            "model = dict(neck=[dict(type='FPN'), dict(type='BFP')])",
            DETECTOR,
            'model.neck is a list of 2 necks, expected one',
        ),
        ('model = dict(neck=None)', DETECTOR, 'model.neck.type=None, expected FPN or mmbackbones.Simple'),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, path, message, tmp_path):
    (tmp_path / 'a.py').write_text(f"_base_ = '{path}'\n{change}\n")
    with pytest.raises(InputError, match=message.replace('.', r'\.')):
        load_config(tmp_path / 'a.py', backbone='vmamba_tiny_s1l8')


def test_every_auxiliary_head_reads_the_new_channels(tmp_path):
    heads = [dict(type='FCNHead', in_channels=1, in_index=index, channels=8, num_classes=4) for index in (1, 2)]
    (tmp_path / 'a.py').write_text(
        f"_base_ = '{SEGMENTOR}'\nmodel = dict(auxiliary_head=[])\nmodel['auxiliary_head'] = {heads}\n"
    )
    cfg = load_config(tmp_path / 'a.py', backbone='vmamba_tiny_s1l8')
    assert [head.in_channels for head in cfg.model.auxiliary_head] == cfg.model.decode_head.in_channels[1:3]


def test_a_simple_pyramid_stands_in_for_no_pyramid_with_other_levels(tmp_path):
    change = "model = dict(neck=dict(start_level=1, add_extra_convs='on_input'))"
    (tmp_path / 'a.py').write_text(f"_base_ = '{DETECTOR}'\n{change}\n")
    assert load_config(tmp_path / 'a.py', backbone='vmamba_tiny_s1l8').model.neck.start_level == 1
    with pytest.raises(InputError, match=r'model\.neck leaves out or adds levels \(start_level, '):
        load_config(tmp_path / 'a.py', backbone='vim_tiny')


def test_norms_of_a_pyramid_stay():
    """ViTDet's norms, which the pyramid of Mask R-CNN does not have, follow a backbone into either neck."""
    task = CONFIGS / 'tasks/cascade-mask-rcnn_lsj-100e_coco.py'
    plain, hierarchical = (load_config(task, backbone=name).model.neck for name in ('vim_tiny', 'mambaout_tiny'))
    assert plain.type == 'mmbackbones.SimpleFeaturePyramid' and hierarchical.type == 'FPN'
    assert plain.norm_cfg == hierarchical.norm_cfg == dict(type='mmbackbones.LN2d', eps=1e-6)
    assert load_config(PLAIN_DETECTOR, backbone='deit_tiny').model.neck.norm_cfg is None


def test_a_one_stage_detector_reads_three_maps(tmp_path):
    task = CONFIGS / 'tasks/rtmdet-ins-tiny_100e_coco.py'
    hierarchical, plain, fine = (
        load_config(task, backbone=name).model for name in ('mambaout_tiny', 'vim_tiny', 'vim_tiny_stride8')
    )
    assert hierarchical.backbone.out_indices == (1, 2, 3) and hierarchical.neck.in_channels == [192, 384, 576]
    assert [neck.type for neck in plain.neck] == ['mmbackbones.SimpleFeaturePyramid', 'CSPNeXtPAFPN']
    assert plain.backbone.out_indices == (23,) and plain.neck[0].scales == (2, 1, 0.5)
    assert fine.neck[0].scales == (1, 0.5, 0.25)
    assert all(model.neck[1].in_channels == [96, 96, 96] for model in (plain, fine))
    load_config(task, backbone='vim_tiny').dump(tmp_path / 'plain.py')
    for name in ('mambaout_tiny', 'deit_tiny'):
        assert load_config(tmp_path / 'plain.py', backbone=name).model == load_config(task, backbone=name).model


def test_a_one_stage_detector_reads_the_maps_of_any_backbone():
    """The indices of a ResNet's stages begin at 1."""
    task = CONFIGS / 'tasks/rtmdet-ins-tiny_100e_coco.py'
    for name in miniature_names():
        if name == 'plainmamba_adapter_mini':
            with pytest.raises(InputError, match=r'returns 4 maps in any case; model\.neck reads'):
                load_config(task, backbone=name)
            continue
        model = load_config(task, backbone=name).model
        if not isinstance(model.neck, list):
            net = shape_only(name, 'detection', out_indices=model.backbone.out_indices)
            assert list(net.out_channels) == model.neck.in_channels and net.out_strides == (8, 16, 32), name
    with pytest.raises(InputError, match='--backbone plainmamba_adapter_mini: PlainMambaAdapter'):
        load_config(CONFIGS / 'tasks/imagenet-224.py', backbone='plainmamba_adapter_mini')


def test_a_task_without_a_backbone_asks_for_one():
    with pytest.raises(InputError, match=r'a task without a backbone; choose one \(--backbone'):
        load_config('tasks/mask-rcnn_1x_coco')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('vmamba_tiny', 'vmamba_tiny: no such backbone; nearest: .*vmamba_tiny'),
        ('VMamba-Tiny-S1L8', 'nearest: vmamba_tiny_s1l8'),
        ('???', r'mmbackbones/zoo/models\.csv lists them'),
    ],
)
def test_an_unknown_backbone_gets_the_nearest_names(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(DETECTOR, backbone=name)
    assert '\n' not in str(caught.value)
