"""The state dict in a checkpoint and its way to a model's names; tests/engine has the same through the initializer."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from mmbackbones.checkpoints.layout import find_weights, of_backbone, rename, to_names_of, weights_of
from mmbackbones.checkpoints.strict import load_weights
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


WHOLE = Detector().state_dict()


def behind(prefix, weights=WHOLE):
    return {f'{prefix}{key}': value for key, value in weights.items()}


@pytest.mark.parametrize(
    'content, says',
    [
        (behind('_orig_mod.'), '_orig_mod.'),
        (behind('module._orig_mod.'), '_orig_mod.'),
        (behind('_orig_mod.module.'), '_orig_mod.'),
        ({key.replace('backbone.', 'backbone._orig_mod.'): value for key, value in WHOLE.items()}, '_orig_mod.'),
        (dict(model=behind('_fsdp_wrapped_module.')), '_fsdp_wrapped_module.'),
        ({f'backbone._checkpoint_wrapped_module.{k[9:]}' if k[0] == 'b' else k: v for k, v in WHOLE.items()}, '_check'),
        (dict(state_dict=WHOLE, optimizer=dict(state={}), epoch=3), ''),
        (dict(model_state_dict=behind('module.')), ''),
        (dict(module=WHOLE, global_steps=1), ''),  # DeepSpeed
        (dict(state_dict=WHOLE, ema_state_dict=behind('module.')), 'under state_dict, which mmengine writes averaged'),
        (dict(state_dict=WHOLE, state_dict_ema=behind('x.')), 'plain weights under state_dict, not the averaged'),
        (dict(model=WHOLE, model_ema=behind('x.')), 'plain weights under model, not the averaged'),
        (dict(model_ema=WHOLE, epoch=3), 'averaged weights (EMA) under model_ema'),
        (dict(ema_state_dict=dict(behind('module.'), steps=torch.tensor(3))), 'averaged weights (EMA)'),
        (dict(ema=dict(module=WHOLE)), 'averaged weights (EMA)'),
    ],
)
def test_checkpoints_of_other_trainers(content, says):
    weights, notes = find_weights(content, 'a.pth')
    assert {key: id(value) for key, value in weights.items()} == {key: id(value) for key, value in WHOLE.items()}
    assert says in '; '.join(notes) and bool(says) == bool(notes)


def test_a_key_with_and_without_its_wrapper_is_refused():
    with pytest.raises(InputError, match=r'head\.bias occurs twice'):
        find_weights({'head.bias': torch.ones(1), '_orig_mod.head.bias': torch.zeros(1)}, 'a.pth')


def test_prefix_of_a_trainer():
    for model, more in ((Detector(), {}), (Detector().backbone, {})):
        own = model.state_dict()
        whole = WHOLE if isinstance(model, Detector) else own
        for prefix in ('model.', 'net.', 'pl_module.detector.'):
            found, layout = to_names_of(model, behind(prefix, whole) | more, 'a.pth')
            assert found.keys() == own.keys() and layout == f'own names, under {prefix}*'
    found, layout = to_names_of(Detector().backbone, behind('model.'), 'a.pth')
    assert found.keys() == {'weight', 'bias'} and 'under model.backbone.*' in layout
    criterion = {'criterion.weight': torch.ones(3)}
    assert '(1 keys beside it not used)' in to_names_of(Detector(), behind('model.') | criterion, 'a.pth')[1]
    assert 'under model.*' in to_names_of(Detector(), behind('model.') | behind('ema_model.'), 'a.pth')[1]
    with pytest.raises(InputError, match=r'under student\. and teacher\.'):
        to_names_of(Detector(), behind('student.') | behind('teacher.'), 'a.pth')
    authors = {'model.kernel': torch.ones(3, 2), 'model.offset': torch.ones(3)}
    assert to_names_of(Detector().backbone, authors, 'a.pth')[0].keys() == {'weight', 'bias'}


class Indexed(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
        self.register_buffer('index', torch.tensor([1, 257]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    source, target = Indexed(), Indexed()
    said = load_weights(target, {key: x.to(dtype) for key, x in source.state_dict().items()}, name='a.pth')
    assert f'widened from {str(dtype)[6:]}' in said and 'not used: index' in said
    assert target.weight.dtype == torch.float32 and torch.equal(target.weight, source.weight.to(dtype).float())
    assert target.index.tolist() == [1, 257]  # bfloat16 rounds it


def test_quantized_weights_are_refused():
    with pytest.raises(InputError, match='weight is of int8, expected float32; is it quantized'):
        load_weights(nn.Linear(2, 3), dict(weight=torch.ones(3, 2).to(torch.int8), bias=torch.ones(3)), name='a.pth')
