"""Maps that do not fit neck or heads, batch norm on one value, and images too small for a network, before a run."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from mmbackbones.engine.command import refused_by_constructor
from mmbackbones.engine.config import load_config
from mmbackbones.engine.preflight import trial
from mmbackbones.engine.preflight.channels import pass_maps
from mmbackbones.engine.preflight.images import naming, try_smallest
from mmbackbones.engine.preflight.meta import MetaRun, Misfit, Untried
from mmbackbones.errors import InputError
from tests.conftest import ROOT
from tests.engine.runs import Net, make
from tests.miniatures import miniature

DET, SEG, PLAIN = ('mambaout_mini', 'detection'), ('mambaout_mini', 'segmentation'), ('vim_mini', 'segmentation')


def built(cfg) -> nn.Module:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def passed(cfg, images=2, size=(64, 64)):
    with MetaRun(built(cfg)).watch() as run:
        return list(pass_maps(run, cfg.model, images, size)), run.starved


@pytest.mark.parametrize('which', [DET, SEG, PLAIN, ('vim_mini', 'detection')], ids='-'.join)
def test_maps_that_fit_leave_no_trace(which):
    model, state = built(cfg := miniature(*which)), torch.get_rng_state()
    model.train()
    modes = [module.training for module in model.modules()]
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with MetaRun(model).watch() as run:
        assert not list(pass_maps(run, cfg.model, 2, (1024, 1024))) and not run.starved
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_layer_with_two_names_stays_whole():
    """RTMDet's levels share convolutions, and other heads share a tensor between two layers."""
    shared, model = nn.Linear(4, 4), nn.ModuleDict()
    for name in ('first', 'second'):
        model[name] = nn.Sequential(shared, nn.ReLU())
    model['tied'] = nn.Linear(4, 4)
    model['tied'].weight = shared.weight
    chain, weight = nn.Sequential(*model.values()), shared.weight.clone()
    with MetaRun(chain).watch() as run:
        assert run(chain, torch.empty(2, 4, device='meta')).shape == (2, 4)
    assert chain[0][0] is chain[1][0] and chain[2].weight is shared.weight
    assert torch.equal(shared.weight, weight) and not shared.weight.is_meta


@pytest.mark.parametrize(
    ('which', 'changes', 'words'),
    [
        (DET, {'neck.in_channels': [16, 32, 64, 128]}, r'neck\.in_channels=\[16, 32, 64, 128\].*\[16, 32, 48, 64\]'),
        (DET, {'neck.in_channels': [16, 32, 48]}, r"neck\.in_channels=\[16, 32, 48\], but the backbone's 4 maps"),
        (DET, {'backbone.out_indices': (1, 2, 3)}, r"neck\.in_channels=.* but the backbone's 3 maps"),
        (DET, {'neck.out_channels': 32}, r"rpn_head\.in_channels=64, but the neck's 5 maps have \[32,"),
        (DET, {'neck.num_outs': 4}, r'rpn_head: its anchors have 5 strides, .* the neck gives 4 maps'),
        (DET, {'roi_head.mask_roi_extractor.out_channels': 32}, r'roi_head\.mask_roi_extractor\.out_channels=32'),
        (DET, {'roi_head.bbox_head.in_channels': 32}, r'roi_head\.bbox_head\.in_channels=32, but .* gives 64'),
        (DET, {'roi_head.bbox_head.roi_feat_size': 14}, r'roi_head\.bbox_head\.roi_feat_size=.* gives 7x7'),
        (DET, {'roi_head.mask_head.in_channels': 32}, r'roi_head\.mask_head\.in_channels=32'),
        (DET, {'train_cfg.rcnn.mask_size': 56}, r'train_cfg\.rcnn\.mask_size=56, but .* 28 cells'),
        (('vim_mini', 'detection'), {'neck.in_channels': 32}, r'neck\.in_channels=32, but .* \[64\]'),
        (SEG, {'decode_head.in_channels': [16, 32, 64, 128]}, r'decode_head\.in_channels=\[16, 32, 64, 128\]'),
        (SEG, {'decode_head.in_index': [0, 1, 1, 3]}, r'decode_head\.in_channels=.* in_index=\[0, 1, 1, 3\] have'),
        (SEG, {'auxiliary_head.in_channels': 64}, r'auxiliary_head\.in_channels=64, .* in_index=2 have \[48\]'),
        (SEG, {'auxiliary_head.in_index': 4}, r'auxiliary_head\.in_index=4, but the backbone gives 4 maps'),
        (PLAIN, {'neck.embed_dim': 32}, r'neck\.embed_dim=32, but .* \[64, 64, 64, 64\]'),
        (PLAIN, {'neck.rescales': [4, 2, 1]}, r'neck does not take .*assert len\(inputs\)'),
    ],
    ids=lambda value: '-'.join(value),
)
def test_maps_that_do_not_fit_are_named(which, changes, words):
    cfg = miniature(*which, {f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(InputError, match=rf'^model\.{words}') as caught:
        passed(cfg)
    assert '\n' not in str(caught.value)


def test_every_head_of_a_list_is_tried():
    cfg = miniature(*SEG)
    cfg.model.auxiliary_head = [cfg.model.auxiliary_head, dict(cfg.model.auxiliary_head, in_channels=16, in_index=1)]
    with pytest.raises(InputError, match=r'^model\.auxiliary_head\.1\.in_channels=16, .* in_index=1 have \[32\]'):
        passed(cfg)


def test_anchors_of_other_strides_are_told():
    cfg = miniature(*DET, {'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128]})
    ((level, note),), _ = passed(cfg, size=(1024, 1024))
    assert level == logging.WARNING and 'strides [8, 16, 32, 64, 128], ' in note and '[4, 8, 16, 32, 64]' in note


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (NotImplementedError("Could not run 'mmcv::op' with arguments from the 'Meta' backend"), Untried),
        (RuntimeError('roi_align_forward_impl: implementation for device meta not found.'), Untried),
        (TypeError("forward() missing 1 required positional argument: 'points'"), Untried),
        (RuntimeError('The size of tensor a (3) must match the size of tensor b (4)'), Misfit),
    ],
)
def test_what_the_meta_device_cannot_do_refuses_nothing(error, kind):
    class Foreign(nn.Module):
        def forward(self, x):
            raise error

    model = Foreign()
    with MetaRun(model).watch() as run, pytest.raises(kind):
        run(model, torch.empty(1, 3, 4, 4, device='meta'))


@pytest.mark.parametrize(
    ('images', 'size', 'sampler', 'drop_last', 'words'),
    [
        (5, 1, InfiniteSampler, False, r'train_dataloader\.batch_size=1: model\.decode_head\.psp_modules'),
        (
            5,
            2,
            DefaultSampler,
            False,
            r'batch_size=2 leaves one of the 5 images .*set train_dataloader\.drop_last=True',
        ),
        (5, 2, DefaultSampler, True, None),
        (5, 2, InfiniteSampler, False, None),
        (4, 2, DefaultSampler, False, None),
    ],
)
def test_batch_norm_of_one_image(images, size, sampler, drop_last, words):
    cfg, data = miniature(*SEG), [0] * images
    loader = DataLoader(data, batch_size=size, sampler=sampler(data), drop_last=drop_last)
    model = built(cfg).train()
    if words is None:
        trial._try_maps(model, cfg.model, cfg, loader)
        return
    with pytest.raises(InputError, match=words):
        trial._try_maps(model, cfg.model, cfg, loader)
    trial._try_maps(model, cfg.model, cfg, None)  # in a test batch norm has its statistics


def test_a_norm_without_batch_takes_one_image():
    norm = dict(type='GN', num_groups=4, requires_grad=True)
    assert not passed(miniature(*SEG, {'model.decode_head.norm_cfg': norm, 'model.auxiliary_head.norm_cfg': norm}), 1)[
        1
    ]


@pytest.fixture(scope='module')
def strips(tmp_path_factory):
    """A data set of a common image and a strip."""
    folder = tmp_path_factory.mktemp('strips')
    for kind in ('img', 'ann'):
        (folder / kind).mkdir()
    for name, size in (('common', (96, 96)), ('strip', (100, 12))):
        Image.new('RGB', size).save(folder / 'img' / f'{name}.jpg')
        Image.fromarray(np.zeros(size[::-1], np.uint8)).save(folder / 'ann' / f'{name}.png')
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(
            dict(
                type='BaseSegDataset',
                data_root=str(folder),
                data_prefix=dict(img_path='img', seg_map_path='ann'),
                metainfo=dict(classes=('a', 'b')),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
            )
        )
    return DataLoader(dataset, collate_fn=pseudo_collate)


@pytest.mark.parametrize('training', [False, True], ids=['test', 'training'])
@pytest.mark.parametrize(('name', 'fits'), [('mambaout_mini', True), ('vim_mini', False), ('deit_mini', False)])
def test_the_smallest_image_is_tried_first(strips, name, fits, training):
    cfg = miniature(name, 'segmentation')
    cfg.model.data_preprocessor.update(size=None, size_divisor=1)
    model, state = built(cfg).train(), torch.get_rng_state()
    before = model.decode_head.conv_seg.weight.clone(), model.decode_head.fpn_bottleneck.bn.running_mean.clone()
    if fits:
        try_smallest(SimpleNamespace(model=model), strips, training)
    else:
        with pytest.raises(InputError, match=r'img/strip\.jpg \(100x12 px\): does not fit the network: .*too small'):
            try_smallest(SimpleNamespace(model=model), strips, training)
    assert model.training and model.decode_head.training and torch.equal(state, torch.get_rng_state())
    assert torch.equal(before[0], model.decode_head.conv_seg.weight)
    assert torch.equal(before[1], model.decode_head.fpn_bottleneck.bn.running_mean)


def test_only_a_refusal_of_a_size_names_images():
    sample = SimpleNamespace(metainfo=dict(img_path='a.jpg', ori_shape=(12, 400)))
    batch = dict(inputs=[0], data_samples=[[sample, sample]])
    with (
        pytest.raises(InputError, match=r'^a\.jpg \(400x12 px\): .* stack expects each tensor to be equal size'),
        naming(lambda: batch),
    ):
        torch.stack([torch.zeros(1), torch.zeros(2)])
    with pytest.raises(RuntimeError, match='out of memory'), naming(lambda: batch):
        raise RuntimeError('out of memory')
    with pytest.raises(RuntimeError, match='stack expects'), naming(lambda: None):
        torch.stack([torch.zeros(1), torch.zeros(2)])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'model.decode_head.in_index': [0, 1]}, r'UPerHead does not take its arguments: assert len\(in_channels\)'),
        ({'model.decode_head.dropout_ratio': 2}, 'Dropout2d does not|UPerHead does not take its arguments: dropout'),
        ({'model.decode_head.loss_decode.use_mask': True, 'model.decode_head.loss_decode.use_sigmoid': True}, 'Cross'),
    ],
)
def test_a_constructor_that_refuses_its_arguments_is_named(changes, words):
    with pytest.raises(Exception) as caught:
        built(miniature(*SEG, changes))
    assert re.search(words, refused_by_constructor(caught.value))


def test_an_error_elsewhere_keeps_its_traceback():
    with pytest.raises(ValueError, match='bug') as caught:
        raise ValueError('a bug')
    assert not refused_by_constructor(caught.value)


def test_a_crop_that_differs_from_the_padded_size_is_told():
    cfg = load_config(ROOT / 'configs/mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')
    assert not list(trial._crop_notes(cfg))
    cfg.model.data_preprocessor.size = (640, 640)
    (note,) = trial._crop_notes(cfg)
    assert 'crop_size=(512, 512), but model.data_preprocessor.size=(640, 640): every batch is padded' in note


class Stacking(Net):
    """It stacks its inputs, as the frameworks' preprocessors do."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(torch.stack(inputs), mode)


@pytest.mark.parametrize('command', ['train', 'test'])
def test_a_runner_names_the_images_of_a_batch_that_cannot_be_stacked(tmp_path, command):
    samples = [SimpleNamespace(metainfo=dict(img_path=f'{i}.jpg', ori_shape=(9, i))) for i in range(8)]
    data = [dict(inputs=torch.zeros(2 + i), data_samples=sample) for i, sample in enumerate(samples)]
    runner = make(tmp_path / command, Stacking(), dataset=data, collate='pseudo_collate')
    with pytest.raises(InputError, match=r'\d\.jpg \(\dx9 px\), \d\.jpg .*stack expects each tensor to be equal size'):
        getattr(runner, command)()
