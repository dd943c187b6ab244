"""timm's registry: classifiers that give the authors' logits, features, and what a head does."""

import functools

import pytest
import timm
import torch

from mmbackbones.errors import InputError
from mmbackbones.integrations import timm_models
from mmbackbones.zoo.rows import named_rows
from tests.backbones.staged_cases import TOLERANCE, classifier_of, load_case
from tests.backbones.test_efficientvmamba import build_like as build_efficientvmamba
from tests.backbones.test_hvittt import build_like as build_hvittt
from tests.backbones.test_local_vmamba import build_like as build_localvmamba
from tests.backbones.test_mambavision import build_like as build_mambavision
from tests.backbones.test_mila import build_like as build_mila
from tests.backbones.test_plainmamba import build_like as build_plainmamba
from tests.backbones.test_ravlt import build_like as build_ravlt
from tests.backbones.test_spatialmamba import build_like as build_spatialmamba
from tests.backbones.test_transnext import build_like as build_transnext
from tests.backbones.test_vmamba import build_like as build_vmamba
from tests.backbones.test_vssd import build_like as build_vssd

NAME = 'vmamba_tiny_s1l8.mmb'
SMALL = dict(arch=dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1)))


@pytest.mark.parametrize(
    ('name', 'case', 'build'),
    [
        ('vmamba_tiny_s1l8', 'vmamba_eps', build_vmamba),
        ('efficientvmamba_tiny', 'efficientvmamba_odd_size', build_efficientvmamba),
        ('localvmamba_tiny', 'localvmamba_odd_size', functools.partial(build_localvmamba, scan_inverse='official')),
        ('mambavision_tiny', 'mambavision_eps', build_mambavision),
        ('plainmamba_l1', 'plainmamba_eps', build_plainmamba),
        ('vssd_tiny', 'vssd_eps', build_vssd),
        ('mila_tiny', 'mila_eps', build_mila),
        ('spatialmamba_tiny', 'spatialmamba_eps', build_spatialmamba),
        ('hvittt_tiny', 'hvittt_eps', build_hvittt),
        ('ravlt_tiny', 'ravlt_eps', build_ravlt),
        ('transnext_tiny', 'transnext_eps', build_transnext),
    ],
)
def test_published_heads_give_the_authors_logits(name, case, build, monkeypatch, tmp_path):
    case = load_case(case)
    path = tmp_path / 'weights.pth'
    torch.save(classifier_of(case), path)
    row = named_rows('models.csv')[name]
    monkeypatch.setitem(named_rows('models.csv'), name, {**row, 'weights': str(path), 'weights_license': 'MIT'})
    classes = case.tensors['logits'].shape[1]
    monkeypatch.setattr(timm_models, 'CLASSES', classes)
    reference = build(case.options)
    last = reference.out_indices[-1]
    monkeypatch.setattr(timm_models, 'last_index', lambda name: last)
    options = {key: getattr(reference, key) for key in ('window_size', 'scan_inverse') if hasattr(reference, key)}
    if name.startswith(('plainmamba', 'transnext')):
        options['img_size'] = case.options['img_size']
    if name.startswith('ravlt'):
        options['width'] = case.options['projection']
    arch = vars(reference.arch)
    if 'directions' in arch:
        arch['directions'] = [' '.join(names) for names in case.options['directions']]
    model = timm.create_model(f'{name}.mmb', pretrained=True, num_classes=classes, arch=arch, **options).eval()
    with torch.no_grad():
        logits = model(case.tensors['x'])
    torch.testing.assert_close(logits, case.tensors['logits'], **TOLERANCE)


def test_features():
    model = timm.create_model(NAME, features_only=True, out_indices=(1, 3), **SMALL)
    maps = model(torch.rand(1, 3, 64, 96))
    assert isinstance(maps, list) and [tuple(x.shape[1:]) for x in maps] == [(16, 8, 12), (32, 2, 3)]
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([16, 32], [8, 32])
    assert model.feature_info.channels(0) == 8 and len(model.feature_info) == 4
    for index, module in zip((1, 3), model.feature_info.module_name()):
        assert model.get_submodule(module) is getattr(model.backbone, f'outnorm{index}')


def test_features_of_a_plain_network():
    model = timm.create_model('vim_tiny.mmb', features_only=True, arch=dict(embed_dims=16, depth=2), out_indices=(1,))
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([16], [16])
    assert model(torch.rand(1, 3, 32, 32))[0].shape == (1, 16, 2, 2)


def test_the_interface_of_a_classifier():
    model = timm.create_model(NAME, num_classes=7, drop_path_rate=0.1, drop_rate=0.2, **SMALL).eval()
    x = torch.rand(2, 3, 64, 64)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape == (2, 32, 2, 2) and pooled.shape == (2, 32) and model.num_features == 32
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert torch.equal(model(x), model.get_classifier()(pooled)) and model(x).shape == (2, 7)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0, global_pool='')
    assert torch.equal(model(x), features)
    model.set_grad_checkpointing()
    assert model.backbone.with_cp and 'backbone.layers.0.blocks.0.op.A_logs' in model.no_weight_decay()
    assert timm.data.resolve_model_data_config(model)['input_size'] == (3, 224, 224)


def test_registry_has_what_timm_lacks_and_keeps_what_timm_has():
    assert timm.is_model('vmamba_tiny_s1l8') and NAME in timm.list_pretrained('vmamba*')
    assert 'mambavision_tiny.mmb' not in timm.list_pretrained('mambavision*')  # no file is verified
    assert timm.model_entrypoint('mambaout_tiny').__module__ == 'timm.models.mambaout'
    assert timm.model_entrypoint('convnext_tiny').__module__ == 'timm.models.convnext'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(model_name='vim_tiny.mmb', pretrained=True),
            'its published classifier does not end in the mean',
        ),
        (dict(model_name='vim_tiny.other'), 'vim_tiny.other: no such weights; known: vim_tiny.mmb'),
        (dict(model_name=NAME, in_chans=1), 'in_chans=1, expected 3'),
        (dict(model_name=NAME, drop_pth=1), 'unknown option drop_pth; nearest: drop_path_rate'),
        (dict(model_name='mamba_tiny.mmb', pretrained=True, num_classes=0), 'zoo://mamba_tiny: no weights are known'),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        timm.create_model(**options)
