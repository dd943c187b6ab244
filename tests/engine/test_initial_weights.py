"""A model that a checkpoint fills fetches no published weights."""

import pytest
from mmengine.config import Config

from mmbackbones.engine.config import load_config
from mmbackbones.engine.initial_weights import drop_pretrained
from tests.conftest import ROOT

CONFIG = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')


def weights_in(node) -> list:
    if isinstance(node, list | tuple):
        return [found for item in node for found in weights_in(item)]
    if not isinstance(node, dict):
        return []
    own = [value for key, value in node.items() if key in ('checkpoint', 'pretrained') and value]
    return own + [found for value in node.values() for found in weights_in(value)]


def test_of_a_config_of_ours():
    cfg = load_config(CONFIG)
    (address,) = weights_in(cfg.model)
    assert drop_pretrained(cfg) == [address] and cfg.model.backbone.init_cfg is None
    assert drop_pretrained(cfg) == []


@pytest.mark.parametrize(
    'backbone',
    [
        dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
        dict(init_cfg=[dict(type='Kaiming', layer='Conv2d'), dict(type='mmbackbones.Pretrained', checkpoint='a')]),
        dict(pretrained='torchvision://resnet50'),
        dict(pretrained=True),
    ],
)
def test_wherever_they_stand(backbone):
    for model in (dict(backbone=backbone), dict(module=dict(backbone=backbone)), dict(neck=[backbone])):
        cfg = Config(dict(model=model))
        assert len(drop_pretrained(cfg)) == 1 and not weights_in(cfg.model)
    cfg = Config(dict(model=dict(backbone=backbone)))
    assert not drop_pretrained(cfg, ('backbone.stages.3.',)) and weights_in(cfg.model)  # the file may lack these
    assert drop_pretrained(cfg, ('roi_head.',))
