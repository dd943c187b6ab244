"""The state dict in a checkpoint and its way to a model's names; tests/engine has the same through the initializer."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from mmbackbones.checkpoints.layout import of_backbone, rename, to_names_of, weights_of
from mmbackbones.errors import InputError


class Trunk(nn.Linear):
    @staticmethod
    def convert_state_dict(weights):
        return {'weight': weights['kernel'], 'bias': weights['offset']}


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = Trunk(2, 3), nn.Linear(3, 1)


def test_weights_of():
    weights = OrderedDict(a=torch.ones(1), b=torch.ones(2))
    weights._metadata = {'module.': dict(version=2)}
    prefixed = OrderedDict((f'module.{key}', value) for key, value in weights.items())
    prefixed._metadata = weights._metadata
    for content in (weights, dict(model=weights, epoch=3), dict(state_dict=dict(model=prefixed)), prefixed):
        assert list(weights_of(content, 'a.pth')) == ['a', 'b']
    assert weights_of(prefixed, 'a.pth')._metadata == {'': dict(version=2)}
    mixed = {'module.a': torch.ones(1), 'b': torch.ones(2)}
    assert list(weights_of(mixed, 'a.pth')) == ['module.a', 'b']
    with pytest.raises(
        InputError, match=r'checkpoint a\.pth: no weights under state_dict, model or at the top; .*epoch'
    ):
        weights_of(dict(epoch=3), 'a.pth')


def test_prefixes_and_rules():
    whole = {'backbone.w': torch.ones(1), 'head.w': torch.ones(2)}
    assert list(of_backbone(whole)) == ['w'] and of_backbone({'w': 1}) == {'w': 1}
    rules = [(r'^backbone\.', 'a.'), (r'^a', 'b'), (r'(\w)$', lambda found: found[1].upper())]
    assert list(rename(whole, rules)) == ['b.W', 'head.W']


def test_a_whole_models_backbone_is_converted():
    own = Detector().state_dict()
    authors = dict(own)
    authors['backbone.kernel'], authors['backbone.offset'] = (
        authors.pop('backbone.weight'),
        authors.pop('backbone.bias'),
    )
    converted, layout = to_names_of(Detector(), authors, 'a.pth')
    assert converted.keys() == own.keys() and layout == "authors' names, converted"
    assert all(converted[key] is own[key] for key in own)
    assert to_names_of(Detector(), own, 'a.pth') == (own, 'own names')
    del authors['backbone.kernel']
    with pytest.raises(InputError, match=r'a\.pth does not fit Detector: it has no kernel; is it of another model'):
        to_names_of(Detector(), authors, 'a.pth')
