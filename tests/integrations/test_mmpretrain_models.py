"""mmpretrain's classifier around our backbones: the authors' logits, and those of timm's own classifiers."""

import functools

import pytest
import torch
from torch import nn

from mmbackbones.backbones import MambaOut
from mmbackbones.backbones.timm_backbone import create_net
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.errors import InputError
from mmbackbones.integrations.mmpretrain_models import ClsHead, ImageClassifier
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import backbone_config
from tests.backbones.staged_cases import TOLERANCE, classifier_of, load_case
from tests.backbones.test_efficientvmamba import build_like as build_efficientvmamba
from tests.backbones.test_hvittt import build_like as build_hvittt
from tests.backbones.test_local_vmamba import build_like as build_localvmamba
from tests.backbones.test_localvim import build_like as build_localvim
from tests.backbones.test_mambavision import build_like as build_mambavision
from tests.backbones.test_mila import build_like as build_mila
from tests.backbones.test_plainmamba import build_like as build_plainmamba
from tests.backbones.test_ravlt import build_like as build_ravlt
from tests.backbones.test_spatialmamba import build_like as build_spatialmamba
from tests.backbones.test_transnext import build_like as build_transnext
from tests.backbones.test_vim import build_like as build_vim
from tests.backbones.test_vmamba import build_like as build_vmamba
from tests.backbones.test_vssd import build_like as build_vssd

TINY_VIM = dict(type='mmbackbones.Vim', arch=dict(embed_dims=16, depth=1), out_indices=(0,))
TOKEN = dict(out_type='cls_token', out_feature='residual')


def build_mambaout(options):
    return MambaOut(arch={key: options[key] for key in ('depths', 'dims')})


def classifier(backbone, num_classes, **head):
    """Without the norms that a dense backbone has on its maps."""
    for index in backbone.out_indices:
        setattr(backbone, f'outnorm{index}', nn.Identity())
    head = dict(family=type(backbone).__name__, in_channels=backbone.out_channels[-1], num_classes=num_classes, **head)
    return ImageClassifier(backbone=backbone, head=ClsHead(**head)).eval()


@pytest.mark.parametrize(
    ('name', 'build'),
    [
        ('mambaout_eps', build_mambaout),
        ('vim_cls_nonsquare', functools.partial(build_vim, **TOKEN)),
        ('vim_cls_stride8', functools.partial(build_vim, **TOKEN)),
        ('localvim_midcls', functools.partial(build_localvim, **TOKEN)),
        ('localvim_eps', functools.partial(build_localvim, out_feature='residual')),
        ('plainmamba_odd_size', build_plainmamba),
        ('vmamba_eps', build_vmamba),
        ('localvmamba_eps', functools.partial(build_localvmamba, scan_inverse='official')),
        ('efficientvmamba_eps', build_efficientvmamba),
        ('mambavision_eps', build_mambavision),
        ('vssd_eps', build_vssd),
        ('mila_eps', build_mila),
        ('spatialmamba_eps', build_spatialmamba),
        ('hvittt_eps', build_hvittt),
        ('ravlt_eps', build_ravlt),
        ('transnext_eps', build_transnext),
    ],
)
def test_the_authors_logits(name, build):
    case = load_case(name)
    weights, backbone = classifier_of(case), build(case.options)
    if 'cls_token' in weights:
        weights['pos_grid'] = torch.tensor(backbone.grid)  # the goldens' tables are not square
    head = dict(width=case.options['projection']) if 'projection' in case.options else {}
    model = classifier(backbone, case.tensors['logits'].shape[1], **head)
    assert 'missing' not in load_weights(model, weights, name=name)  # every key has its place
    with torch.no_grad():
        logits = model(case.tensors['x'])
    torch.testing.assert_close(logits, case.tensors['logits'], **TOLERANCE)

    own = {key: x.clone() for key, x in model.state_dict().items()}
    assert model.convert_state_dict(dict(own)).keys() == own.keys()  # ours stay as they are


@pytest.mark.parametrize('name', ['deit', 'swin', 'twins', 'focalnet', 'pvtv2', 'convnext', 'convformer', 'resnet'])
def test_logits_of_timm(name):
    torch.manual_seed(0)
    config = backbone_config(f'{name}_mini', 'classification')
    options = dict(config['arch'])
    theirs = create_net(options.pop('name'), dict(options, num_classes=7)).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = MODELS.build(config)
    head = ClsHead('TimmBackbone', model.out_channels[-1], 7, config['arch'])
    model = ImageClassifier(backbone=model, head=head).eval()
    assert 'missing' not in load_weights(model, dict(theirs.state_dict()), name=name)
    side = 224 if name == 'swin' else 64  # timm's own Swin shifts its windows otherwise where they are not whole
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), **TOLERANCE)


def test_bad_input():
    with pytest.raises(InputError, match=r'model\.head\.arch is not set'):
        ClsHead('TimmBackbone', 8, 7)
    with pytest.raises(InputError, match="out_type='cls_token', but it has no class token"):
        MODELS.build(
            dict(type='mmbackbones.Vim', arch=dict(embed_dims=16, depth=1), out_indices=(0,), out_type='cls_token')
        )
