"""mmpretrain's classifier around our backbones: the authors' logits, and those of timm's own classifiers."""

import functools

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch import nn

from mmbackbones.backbones import MambaOut
from mmbackbones.backbones.timm_backbone import create_net
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.engine.config import load_config
from mmbackbones.engine.device import adapt_to_device
from mmbackbones.errors import InputError
from mmbackbones.integrations.mmpretrain_models import ClsHead, ImageClassifier
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import backbone_config
from tests.backbones.staged_cases import TOLERANCE, classifier_of, load_case, load_keys
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
from tests.conftest import ROOT

TINY_VIM = dict(type='mmbackbones.Vim', arch=dict(embed_dims=16, depth=1), out_indices=(0,))
TOKEN = dict(out_type='cls_token', out_feature='residual')


@pytest.fixture(autouse=True)
def scope():
    """That of the task's config; a test before this one may have set another framework's."""
    init_default_scope('mmpretrain')


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


PUBLISHED = {'plainmamba_l1': 'plainmamba_L1', 'localvim_small_searched': 'localvim_small'}


@pytest.mark.parametrize(
    'name',
    [
        *('mambaout_femto', 'vim_tiny', 'vim_tiny_stride8', 'localvim_tiny', 'localvim_tiny_middle_cls_token'),
        *('plainmamba_l1', 'vmamba_tiny_s1l8', 'localvmamba_tiny', 'efficientvmamba_tiny', 'mambavision_tiny'),
        *('vssd_tiny', 'mila_tiny', 'spatialmamba_tiny', 'hvittt_tiny', 'ravlt_tiny', 'transnext_tiny'),
    ],
)
def test_every_published_key_has_its_place_in_the_task(name):
    """At full size, with the options that the zoo gives a classifier."""
    published = load_keys(PUBLISHED.get(name, name))
    cfg = load_config(ROOT / 'configs/tasks/imagenet-224.py', backbone=name).model
    with shapes_alone():
        head = ClsHead(**{key: value for key, value in cfg.head.items() if key not in ('type', 'loss')})
        model = ImageClassifier(backbone=MODELS.build(cfg.backbone), head=head)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    converted = model.convert_state_dict(weights)
    own = {key: x.shape for key, x in model.state_dict().items()}
    assert {key: x.shape for key, x in converted.items()} == own
    assert sum(x.numel() for x in model.parameters()) == published['num_parameters']


@pytest.mark.full
@pytest.mark.parametrize('name', ['mambaout_tiny', 'vmamba_tiny_s1l8'])
def test_one_training_step_at_full_size(name):
    """Two random images, mixed, through network and head, loss, backward and AdamW: every parameter moves."""
    cfg = load_config(ROOT / 'configs/tasks/imagenet-224.py', {'model.backbone.drop_path_rate': 0.0}, backbone=name)
    adapt_to_device(cfg, 'none')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    before = {key: x.detach().clone() for key, x in model.named_parameters()}
    images = list(torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in (3, 999)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite() and all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters())
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05).step()
    assert not [key for key, x in model.named_parameters() if x.equal(before[key]) and x.grad.any()]


def test_bad_input():
    with pytest.raises(InputError, match=r'model\.head\.arch is not set'):
        ClsHead('TimmBackbone', 8, 7)
    with pytest.raises(InputError, match="out_type='cls_token', but it has no class token"):
        MODELS.build(
            dict(type='mmbackbones.Vim', arch=dict(embed_dims=16, depth=1), out_indices=(0,), out_type='cls_token')
        )
