"""What is refused before a run starts."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmbackbones.engine.checks import require_class_count, require_weights
from mmbackbones.errors import InputError


@pytest.mark.parametrize(
    'init_cfg',
    [
        None,
        dict(type='Pretrained', checkpoint='a.pth'),
        [dict(type='Constant'), dict(type='Pretrained', checkpoint='a')],
    ],
    ids=['random', 'one', 'list'],
)
def test_weights_that_are_named_or_declined(init_cfg):
    require_weights(Config(dict(model=dict(backbone=dict(type='Vim', init_cfg=init_cfg)))))


@pytest.mark.parametrize('backbone', [{}, dict(init_cfg=[]), dict(init_cfg=dict(type='Pretrained', checkpoint=None))])
def test_no_weights_by_oversight(backbone):
    with pytest.raises(InputError, match=r'for Vim tiny: set model\.backbone\.init_cfg\.checkpoint'):
        require_weights(Config(dict(model=dict(backbone=dict(type='Vim', arch='tiny', **backbone)))))


@pytest.mark.parametrize(
    'model, key',
    [
        (dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=2)), 'model.decode_head'),
        (dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=3)), 'model.auxiliary_head'),
        (dict(module=dict(decode_head=dict(num_classes=3))), 'model.decode_head'),
        (
            dict(roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=3))),
            'model.roi_head.mask_head',
        ),
    ],
)
def test_class_count(model, key):
    data = SimpleNamespace(metainfo=dict(classes=('a', 'b')))
    require_class_count(Config(dict(model=dict(decode_head=dict(num_classes=2)))), data)
    with pytest.raises(InputError, match=rf'^{key}\.num_classes=3, but the data set has 2 classes: a, b$'):
        require_class_count(Config(dict(model=model)), data)
