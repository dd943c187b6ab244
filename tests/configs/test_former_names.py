"""Who asks for a config of an arm or a miniature by its former path is told what to write now, and that works."""

import shlex

import pytest

from mmbackbones.engine.config import config_hash, load_config
from mmbackbones.errors import InputError
from mmbackbones.paths import find_config


@pytest.mark.parametrize(
    'former',
    [
        'configs/quickstart/mask-rcnn_vmamba-mini-v0_fpn_1xb4-300_shapes-coco.py',
        'quickstart/plainmamba-adapter-mini_upernet_1xb8-500_shapes-ade20k-128x128',
        'configs/controlled/mask-rcnn_gated-tiny-ss2d-last2_fpn_8xb2-amp-1x_coco.py',
        'configs/controlled/isotropic-small-ssm-reversed_fcn-1x1_8xb2-amp-160k_ade20k-512x512.py',
        'configs/controlled/miniature/gated-mini-pointwise-attn-last2_upernet_1xb8-500_shapes-ade20k-128x128.py',
    ],
)
def test_the_hint_is_a_config_that_loads(former):
    with pytest.raises(InputError, match='no such config file; it is now ') as caught:
        find_config(former)
    config, option, value = shlex.split(str(caught.value).partition('it is now ')[2])
    given = {'--backbone': dict(backbone=value), '--cfg-options': dict(overrides=dict([value.partition('=')[::2]]))}
    assert load_config(config, **given[option]).model.backbone.type.startswith('mmbackbones.')


def test_no_hint_for_what_never_was():
    with pytest.raises(InputError, match=r'no such config file$'):
        find_config('configs/vim/vim-huge_upernet.py')


@pytest.mark.parametrize(
    ('full_name', 'task'),
    [
        ('mask-rcnn_mambaout-mini_fpn_1xb4-300_shapes-coco', 'mask-rcnn_1xb4-300_shapes-coco'),
        ('mambaout-mini_upernet_1xb8-500_shapes-ade20k-128x128', 'upernet_1xb8-500_shapes-ade20k-128x128'),
    ],
)
def test_configs_of_users_may_build_on_the_full_names(full_name, task):
    one, other = (load_config(f'configs/quickstart/{name}.py') for name in (full_name, task))
    assert config_hash(one) == config_hash(other)
