"""What is refused before a run starts."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

from mmbackbones.engine.checks import (
    require_class_count,
    require_classes,
    require_same_classes,
    require_trained_classes,
    require_weights,
)
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


def head(classes):
    module = nn.Module()
    module.num_classes = classes
    return module


def model(**children):
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, nn.ModuleList(map(head, child)) if isinstance(child, list) else child)
    return module


def data(*classes):
    return SimpleNamespace(metainfo=dict(classes=classes))


@pytest.mark.parametrize(
    ('found', 'key'),
    [
        (model(decode_head=head(3), auxiliary_head=head(2)), 'decode_head'),
        (model(decode_head=head(2), auxiliary_head=head(3)), 'auxiliary_head'),
        (model(decode_head=head(2), auxiliary_head=[2, 3]), 'auxiliary_head.1'),
        (model(module=model(decode_head=head(3))), 'decode_head'),
        (model(roi_head=model(bbox_head=head(2), mask_head=head(3))), 'roi_head.mask_head'),
        (model(roi_head=model(bbox_head=[2, 2, 3])), 'roi_head.bbox_head.2'),
        (model(bbox_head=head(3)), 'bbox_head'),
        (model(mask_head=head(3)), 'mask_head'),
    ],
)
def test_class_count_of_every_kind_of_head(found, key):
    with pytest.raises(InputError, match=rf'^model\.{key}\.num_classes=3, but the data set has 2 classes: a, b$'):
        require_class_count(found, data('a', 'b'))


def test_class_count_of_heads_that_count_something_else():
    class STDCHead(nn.Module):
        num_classes = 1

    fitting = model(decode_head=head(2), auxiliary_head=nn.ModuleList([head(2), STDCHead()]))
    for found in (fitting, model(rpn_head=head(1), bbox_head=head(2)), model(backbone=head(1000))):
        require_class_count(found, data('a', 'b'))
    require_class_count(model(bbox_head=head(256), language_model=nn.Identity()), data('a', 'b'))


@pytest.mark.parametrize(
    ('classes', 'message'),
    [('disc', "='disc': is text"), (None, ': not set'), ((), ': not set'), (('a', 'b', 'a'), ".*'a' is named 2 times")],
)
def test_class_names_that_are_none(classes, message):
    with pytest.raises(InputError, match=rf'^val_dataloader\.dataset\.metainfo\.classes{message}'):
        require_classes('val', SimpleNamespace(metainfo=dict(classes=classes)))


def test_weights_of_classes_in_another_order():
    def meta(*classes):
        return dict(dataset_meta=dict(classes=list(classes)))

    for fitting in (meta('a', 'b'), {}, None, dict(dataset_meta=None)):
        require_trained_classes(fitting, data('a', 'b'), 'x.pth')
    with pytest.raises(InputError, match=r'^x\.pth: was trained on 2 classes: b, a, but .*: a, b: the same in another'):
        require_trained_classes(meta('b', 'a'), data('a', 'b'), 'x.pth')
    require_trained_classes(meta('A', 'b'), data('a', 'b'), 'x.pth')  # renamed, so only a warning


def test_splits_with_other_classes():
    require_same_classes(dict(test=data('a', 'b'), train=SimpleNamespace(metainfo=dict(classes=['a', 'b']))))
    for split, other, message in (
        ('train', data('b', 'a'), 'other classes than the test data set in another order: 2 classes: b, a, against'),
        ('val', data('a'), '1 classes: a, against 2 classes: a, b'),
        ('train', data('a', 'c'), '2 classes: a, c, against 2 classes: a, b'),
    ):
        with pytest.raises(InputError, match=rf'{split}_dataloader\.dataset\.metainfo\.classes: .*{message}'):
            require_same_classes({'test': data('a', 'b'), split: other})
