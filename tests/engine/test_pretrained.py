"""The initializer: every published layout ends in the same weights, and what does not fit is listed."""

import argparse
from collections import OrderedDict

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate

from mmbackbones.backbones import MambaOut, Vim
from mmbackbones.backbones.base import Backbone
from mmbackbones.errors import InputError
from tests.backbones.test_mambaout import read_case
from tests.checkpoints.crafted import Call

OWN = 'mmbackbones.Pretrained'


class SelfWilledLinear(nn.Linear):
    """Like many of timm's layers: initializes itself when the parent asks."""

    def init_weights(self):
        nn.init.constant_(self.weight, 7.0)


class Small(Backbone):
    """A backbone whose position table depends on the resolution and whose authors say ``encoder``."""

    allowed_unexpected = ('head.',)

    def __init__(self, grid=4, **kwargs):
        super().__init__(**kwargs)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, grid, grid))
        self.body = SelfWilledLinear(2, 3)
        self.outnorm0 = nn.LayerNorm(3)

    @staticmethod
    def convert_state_dict(state_dict):
        return {key.replace('encoder.', 'body.'): value for key, value in state_dict.items()}

    def _load_from_state_dict(self, state_dict, prefix, *args):
        table = state_dict.get(f'{prefix}pos_embed')
        if table is not None:
            state_dict[f'{prefix}pos_embed'] = interpolate(table, self.pos_embed.shape[-2:])
        super()._load_from_state_dict(state_dict, prefix, *args)


AUTHORS = OrderedDict(
    [
        ('pos_embed', torch.rand(1, 2, 4, 4)),
        ('encoder.weight', torch.rand(3, 2)),
        ('encoder.bias', torch.rand(3)),
        ('head.weight', torch.rand(5, 3)),
    ]
)
CONVERTED = Small.convert_state_dict(AUTHORS)


def under(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


LAYOUTS = {
    'authors, bare': lambda: AUTHORS,
    'authors, model': lambda: {'model': AUTHORS, 'args': argparse.Namespace(lr=1.0), 'epoch': 3},
    'authors, state_dict, module.module.': lambda: {'state_dict': under('module.module.', AUTHORS)},
    'own names': lambda: CONVERTED,
    'mm checkpoint': lambda: {
        'state_dict': {**under('backbone.', CONVERTED), 'decode_head.weight': torch.rand(2)},
        'meta': {},
    },
    'mm checkpoint, module.': lambda: {'state_dict': under('module.backbone.', CONVERTED)},
    'mm checkpoint, authors': lambda: {'state_dict': {**under('backbone.', AUTHORS), 'head.weight': torch.rand(2)}},
}


def save(folder, checkpoint):
    torch.save(checkpoint, folder / 'weights.pth')
    return str(folder / 'weights.pth')


def check_small(model):
    for key in ('pos_embed', 'body.weight', 'body.bias'):
        torch.testing.assert_close(model.state_dict()[key], CONVERTED[key], rtol=0, atol=0)


@pytest.mark.parametrize('kind', [OWN, 'Pretrained'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_files_weights(tmp_path, layout, kind):
    model = Small(init_cfg=dict(type=kind, checkpoint=save(tmp_path, LAYOUTS[layout]())))
    model.init_weights()
    check_small(model)
    torch.testing.assert_close(model.outnorm0.weight, torch.ones(3))


def test_children_initialize_themselves_before(tmp_path):
    """As part of a detector too, where mmengine defers only its own initializer."""
    without = Small()
    without.init_weights()
    assert (without.body.weight == 7).all()  # else this test could not fail

    class Detector(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=dict(type='Constant', layer='LayerNorm', val=3.0))
            self.backbone = Small(
                init_cfg=[
                    dict(type='Constant', layer='Linear', val=5.0),
                    dict(type=OWN, checkpoint=save(tmp_path, AUTHORS)),
                ]
            )

    detector = Detector()
    detector.init_weights()
    check_small(detector.backbone)
    torch.testing.assert_close(detector.backbone.outnorm0.weight, torch.full((3,), 3.0))


def test_prefix(tmp_path):
    path = save(tmp_path, {'state_dict': under('student.net.', CONVERTED)})
    for prefix in ('student.net', 'student.net.'):
        model = Small(init_cfg=dict(type=OWN, checkpoint=path, prefix=prefix))
        model.init_weights()
        check_small(model)
    with pytest.raises(InputError, match=r"weights\.pth: no key begins with 'teacher\.'"):
        Small(init_cfg=dict(type=OWN, checkpoint=path, prefix='teacher')).init_weights()


def test_load_hooks_resize(tmp_path):
    model = Small(grid=6, init_cfg=dict(type=OWN, checkpoint=save(tmp_path, AUTHORS)))
    model.init_weights()
    torch.testing.assert_close(model.pos_embed, interpolate(AUTHORS['pos_embed'], (6, 6)), rtol=0, atol=0)


def test_a_norm_in_the_file_is_taken(tmp_path):
    weights = {**CONVERTED, 'outnorm0.weight': torch.rand(3), 'outnorm0.bias': torch.rand(3)}
    model = Small(init_cfg=dict(type=OWN, checkpoint=save(tmp_path, {'state_dict': under('backbone.', weights)})))
    model.init_weights()
    torch.testing.assert_close(model.outnorm0.weight, weights['outnorm0.weight'], rtol=0, atol=0)


def test_everything_that_does_not_fit_is_listed(tmp_path):
    weights = dict(AUTHORS, extra=torch.zeros(1), **{'encoder.bias': torch.zeros(4)})
    del weights['encoder.weight']
    model = Small(init_cfg=dict(type=OWN, checkpoint=save(tmp_path, weights)))
    with pytest.raises(InputError) as error:
        model.init_weights()
    message = str(error.value)
    assert message.startswith(f'checkpoint {tmp_path}/weights.pth does not fit Small; ') and '\n' not in message
    assert 'missing 1: body.weight' in message and 'unexpected 1: extra' in message
    assert 'of another shape: body.bias is [4] in the file and [3] in the model' in message
    assert 'head' not in message and 'outnorm' not in message


@pytest.mark.parametrize(
    'arch, weights, guess',
    [
        (
            'another',
            {'layers.0.mixer.weight': torch.zeros(2), 'layers.1.mixer.weight': torch.zeros(2)},
            r"0 of the model's \d+ keys are in the file, so it looks like another model or family; missing \d+: .*stag",
        ),
        ('deeper', None, 'looks like another variant or setting of this model; missing 8: stages.2.blocks.1.'),
        ('wider', None, 'looks like another variant or setting of this model; of another shape: .*is .* in the file'),
    ],
)
def test_another_family_or_variant_is_named(tmp_path, arch, weights, guess):
    small = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    path = save(tmp_path, weights or MambaOut(arch=small).state_dict())
    changed = {'deeper': dict(small, depths=(1, 1, 2, 1)), 'wider': dict(small, dims=(8, 16, 24, 40))}
    model = MambaOut(arch=changed.get(arch, small), init_cfg=dict(type=OWN, checkpoint=path))
    with pytest.raises(InputError, match=f'does not fit MambaOut; .*{guess}'):
        model.init_weights()


def test_adapter_that_misses_a_key_names_the_family(tmp_path, monkeypatch):
    monkeypatch.setattr(Small, 'convert_state_dict', staticmethod(lambda weights: weights['encoder.gate']))
    model = Small(init_cfg=dict(type=OWN, checkpoint=save(tmp_path, AUTHORS)))
    with pytest.raises(InputError, match=r'does not fit Small: it has no encoder\.gate; .*another model or family'):
        model.init_weights()


@pytest.mark.parametrize('checkpoint', [None, ''])
def test_no_checkpoint_names_the_key_to_set(checkpoint):
    model = Small(init_cfg=dict(type=OWN, checkpoint=checkpoint))
    with pytest.raises(
        InputError,
        match=r'Small: set model\.backbone\.init_cfg\.checkpoint .*'
        r'model\.backbone\.init_cfg=None to start from random',
    ):
        model.init_weights()
    Small(init_cfg=None).init_weights()


def test_a_plain_module_must_match_to_the_letter(tmp_path):
    target, source = nn.Linear(2, 3), nn.Linear(2, 3)
    initialize(target, dict(type=OWN, checkpoint=save(tmp_path, {'state_dict': source.state_dict()})))
    torch.testing.assert_close(target.weight, source.weight, rtol=0, atol=0)
    with pytest.raises(InputError, match=r'does not fit Linear; .*unexpected 1: head\.weight'):
        initialize(
            target,
            dict(
                type=OWN, checkpoint=save(tmp_path, under('', {**source.state_dict(), 'head.weight': torch.zeros(1)}))
            ),
        )


def test_the_log_says_what_was_loaded(tmp_path):
    logger = MMLogger.get_instance('pretrained', log_file=str(tmp_path / 'run.log'))
    path = save(tmp_path, {'state_dict': {**under('backbone.', AUTHORS), 'head.weight': torch.rand(2)}})
    Small(init_cfg=dict(type=OWN, checkpoint=path)).init_weights()
    logger.handlers[-1].flush()
    (line,) = [line for line in (tmp_path / 'run.log').read_text().splitlines() if 'Small: loaded' in line]
    assert line.endswith(
        f'Small: loaded {path} (mm checkpoint, backbone.*, converted): 3 tensors, 41 parameters; '
        'missing (they keep their initialization): outnorm0.{bias,weight}; unexpected (not used): head.weight'
    )


@pytest.mark.parametrize('layout', ['authors', 'timm', 'mm checkpoint'])
def test_every_mambaout_parameter_equals_the_files(tmp_path, layout):
    _, weights, arch = read_case('mambaout_eps')
    timm_names = MambaOut.convert_state_dict(weights)
    path = tmp_path / 'weights.pth'
    if layout == 'timm':
        save_file({key: value.contiguous() for key, value in timm_names.items()}, path)
    else:
        torch.save(weights if layout == 'authors' else {'state_dict': under('backbone.', timm_names)}, path)
    model = MambaOut(arch=arch, init_cfg=dict(type=OWN, checkpoint=str(path)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    loaded = [key for key in model.state_dict() if not key.startswith('outnorm')]
    assert len(loaded) == len([key for key in timm_names if not key.startswith('head.')]) > 50
    for key in loaded:
        torch.testing.assert_close(model.state_dict()[key], timm_names[key], rtol=0, atol=0)
        assert not torch.equal(before[key], timm_names[key]), key


def test_another_variant_and_family_are_named(tmp_path):
    torch.save(MambaOut(arch='kobe', norm_cfg=None).state_dict(), tmp_path / 'kobe.pth')
    init_cfg = dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'kobe.pth'))
    with pytest.raises(InputError, match='the file holds MambaOut kobe, the model is MambaOut femto'):
        MambaOut(arch='femto', init_cfg=init_cfg).init_weights()
    with pytest.raises(InputError, match='the file holds MambaOut kobe, the model is Vim tiny'):
        Vim(arch='tiny', init_cfg=init_cfg).init_weights()


def test_crafted_weights_run_nothing(tmp_path):
    witness, path = tmp_path / 'witness', tmp_path / 'crafted.pth'
    weights = MambaOut(arch=dict(depths=(1,), dims=(8,)), out_indices=(0,)).state_dict()
    torch.save(dict(state_dict=weights, meta=Call(eval, f'open({str(witness)!r}, "w")')), path)
    torch.load(path, weights_only=False)
    witness.unlink()  # plain unpickling does run it
    init_cfg = dict(type='mmbackbones.Pretrained', checkpoint=str(path))
    model = MambaOut(arch=dict(depths=(1,), dims=(8,)), out_indices=(0,), init_cfg=init_cfg)
    model.init_weights()
    assert not witness.exists()
    assert torch.equal(model.stem.conv1.weight, weights['stem.conv1.weight'])
