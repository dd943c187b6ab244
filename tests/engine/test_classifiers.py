"""A classifier through the commands: trained and tested, with weights of the zoo, and loaded by dense configs."""

import json
import re

import pytest
import timm
import torch
from mmengine.config import Config

from mmbackbones.checkpoints.layout import find_weights
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.datasets.shapes_imagenet import CLASSES, write_image_folders
from mmbackbones.engine.classifiers import use_published_test
from mmbackbones.engine.cli import test as run_test
from mmbackbones.engine.cli import train as run_train
from mmbackbones.engine.config import load_config
from mmbackbones.engine.preflight.schedule import batch_notes
from mmbackbones.errors import InputError
from mmbackbones.layers.position import resize_position
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import model_names, published_test
from mmbackbones.zoo.rows import named_rows
from tests.conftest import ROOT

TASK = str(ROOT / 'configs/tasks/imagenet-224.py')
MINIATURE = str(ROOT / 'configs/quickstart/classifier_1xb16-16e_shapes-imagenet-64x64.py')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_folders(tmp_path_factory.mktemp('data') / 'shapes', train=36, val=12)


def options(data, *more):
    keys = [f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'test')]
    return ['--cfg-options', *keys, *more]


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """Two epochs of a miniature network of the zoo."""
    work_dir = tmp_path_factory.mktemp('run')
    short = ('train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=1', 'param_scheduler=None')
    run_train([MINIATURE, '--backbone', 'vim_mini', '--work-dir', str(work_dir), *options(data, *short)])
    return work_dir


def record_of(run):
    return json.loads((run / 'final' / 'run.json').read_text())


def test_train_and_test(run, data, tmp_path, capsys):
    record = record_of(run)
    assert record['task'] == 'classification' and record['images'] == 12 and record['data_fingerprint']
    assert set(record['metrics']) == {'accuracy/top1', 'accuracy/top5'}
    work_dir = ['--work-dir', str(tmp_path)]
    run_test([MINIATURE, str(run / 'epoch_2.pth'), '--backbone', 'vim_mini', *work_dir, *options(data)])
    top1 = record['metrics']['accuracy/top1']
    assert re.search(rf'\*\*\* top-1 {top1:.2f}  top-5 [\d.]+\n', capsys.readouterr().out)


@pytest.mark.parametrize('key', ['model.head.num_classes', 'model.data_preprocessor.num_classes'])
def test_another_number_of_classes_is_refused(key, run, data, tmp_path):
    arguments = [MINIATURE, str(run / 'epoch_2.pth'), '--backbone', 'vim_mini', '--work-dir', str(tmp_path)]
    with pytest.raises(InputError, match=rf'{key}=5, but the data set has 6 classes'):
        run_test([*arguments, *options(data, f'{key}=5')])


def test_weights_trained_here_load_in_a_dense_config(run):
    """With the table of positions resized, without the class token, and with new norms on the maps."""
    trained = torch.load(run / 'epoch_2.pth', weights_only=False)['state_dict']
    cfg = load_config(ROOT / 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py', backbone='vim_mini')
    cfg.model.backbone.init_cfg = dict(type='mmbackbones.Pretrained', checkpoint=str(run / 'epoch_2.pth'))
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    found = backbone.state_dict()
    assert torch.equal(found['layers.3.mixer.A_log'], trained['backbone.layers.3.mixer.A_log'])
    grids = (8, 8), (16, 16)
    expected = resize_position(trained['backbone.pos_embed'], *grids, 32, None)
    torch.testing.assert_close(found['pos_embed'], expected)
    weights = find_weights(dict(state_dict=trained), 'a.pth').weights
    said = load_weights(backbone, weights, name='a.pth', allowed_missing=backbone.allowed_missing)
    assert 'mm checkpoint, backbone.*' in said and 'missing (they keep their initialization): {outnorm0,' in said
    with pytest.raises(InputError, match=r'missing 8: \{outnorm0,.*\}\.\{bias,weight\}'):
        load_weights(backbone, weights, name='a.pth')


def test_finer_patches_start_from_coarse_ones(run):
    """Vim's long-sequence fine-tuning: half the stride, the table of positions resized, the class token's row kept."""
    cfg = load_config(MINIATURE, {'model.backbone.pad_patches': False}, 'vim_mini')
    cfg.model.backbone.arch.stride = 4
    model = MODELS.build(cfg.model)
    trained = torch.load(run / 'epoch_2.pth', weights_only=False)['state_dict']
    load_weights(model, dict(trained), name='coarse')
    assert model.backbone.grid == (15, 15)
    expected = resize_position(trained['backbone.pos_embed'], (8, 8), (15, 15), 32, 112)
    torch.testing.assert_close(model.backbone.pos_embed.data, expected)
    torch.testing.assert_close(model.backbone.pos_embed[0, 112], trained['backbone.pos_embed'][0, 32])


def test_weights_of_the_zoo_are_tested_as_the_authors_do(data, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    theirs = timm.create_model('mambaout_femto', num_classes=len(CLASSES))
    path = tmp_path / 'weights.pth'
    torch.save(theirs.state_dict(), path)
    row = named_rows('models.csv')['mambaout_femto']
    monkeypatch.setitem(named_rows('models.csv'), 'mambaout_femto', {**row, 'weights': str(path)})
    few = (
        'test_dataloader.dataset.classes=' + ','.join(CLASSES),
        f'model.head.num_classes={len(CLASSES)}',
        f'model.data_preprocessor.num_classes={len(CLASSES)}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'test_dataloader.batch_size=4',
    )
    work_dir = ['--work-dir', str(tmp_path / 'work')]
    run_test([TASK, 'zoo://mambaout_femto', '--backbone', 'mambaout_femto', *work_dir, *options(data, *few)])
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r'\*\*\* top-1 [\d.]+  top-5 [\d.]+  at 224 px, crop 1, bicubic; published: top-1 78\.9 \(', line)


@pytest.mark.parametrize(
    ('name', 'scale', 'interpolation', 'said'),
    [
        ('vmamba_tiny_s1l8', 256, 'bicubic', 'crop 0.875, bicubic; published: top-1 82.6'),
        ('mambavision_small', 240, 'bicubic', 'crop 0.93, bicubic; published: top-1 83.3'),
        ('swin_tiny', 248, 'bicubic', 'crop 0.9, bicubic; published: top-1'),
        ('resnet_50', 256, 'bilinear', 'crop 0.875, bilinear; published: top-1'),
        ('mamba_tiny', 256, 'bicubic', 'crop 0.875, bicubic; no figure is published (a causal control of our own)'),
    ],
)
def test_resolution_and_crop_of_the_authors(name, scale, interpolation, said):
    cfg = load_config(TASK, backbone=name)
    assert said in use_published_test(cfg, f'zoo://{name}', {})
    resize, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    assert (resize.scale, resize.interpolation, crop.crop_size) == (scale, interpolation, 224)
    untouched = load_config(TASK, backbone=name)
    assert use_published_test(untouched, 'work_dirs/a.pth', {}) == ''
    assert untouched.test_dataloader.dataset.pipeline[1].scale == 224


def test_every_model_has_a_test():
    for name in model_names():
        test = published_test(name)
        assert test['size'] >= 224 and 0.8 < test['crop'] <= 1 and test['interpolation'] in ('bicubic', 'bilinear')


@pytest.mark.parametrize(
    ('wrapper', 'processes', 'said'),
    [
        (dict(accumulative_counts=4), 8, ''),
        (dict(), 8, 'a step of the optimizer has 1024 images'),
        (dict(accumulative_counts=4), 1, r'has 512 images \(train_dataloader.batch_size=128 x 1 processes'),
    ],
)
def test_accumulated_batches_count(wrapper, processes, said):
    cfg = Config(
        dict(train_dataloader=dict(batch_size=128), optim_wrapper=wrapper, auto_scale_lr=dict(base_batch_size=4096))
    )
    notes = ' '.join(batch_notes(cfg, processes))
    assert re.search(said, notes) if said else notes == ''
    cfg.auto_scale_lr.enable = True
    assert not list(batch_notes(cfg, processes))


def test_a_head_of_another_kind_is_refused(tmp_path):
    (tmp_path / 'a.py').write_text(f"_base_ = '{TASK}'\nmodel = dict(head=dict(type='LinearClsHead'))\n")
    with pytest.raises(InputError, match=r'model\.head\.type=LinearClsHead, expected mmbackbones\.ClsHead'):
        load_config(tmp_path / 'a.py', backbone='vim_tiny')
