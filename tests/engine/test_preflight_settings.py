"""Settings that cannot work are refused by the configuration alone; schedules that do not fit are told of."""

import functools

import pytest

from mmbackbones.engine.config import load_config
from mmbackbones.engine.preflight.schedule import schedule_notes
from mmbackbones.engine.preflight.settings import require_workable
from mmbackbones.errors import InputError
from tests.conftest import ROOT
from tests.miniatures import DETECTOR, SEGMENTOR

CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if not {'_base_', 'tasks'} & set(path.parts))
EPOCHS = dict(type='EpochBasedTrainLoop', max_epochs=12)
VALIDATED = {'val_cfg': dict(type='ValLoop'), 'val_dataloader': dict(a=1), 'val_evaluator': dict(type='CocoMetric')}


def changed(path, changes):
    cfg = load_config(ROOT / path)
    for key, value in changes.items():
        *parents, leaf = key.split('.')
        functools.reduce(lambda node, part: node[part], parents, cfg)[leaf] = value
    return cfg


@pytest.mark.parametrize(
    ('path', 'changes', 'words'),
    [
        (
            SEGMENTOR,
            {'train_dataloader.persistent_workers': True},
            r'train_dataloader\.persistent_workers=True .*train_dataloader\.num_workers=0',
        ),
        (SEGMENTOR, {'test_dataloader.persistent_workers': True}, r'test_dataloader\.persistent_workers=True'),
        (DETECTOR, {'train_dataloader.prefetch_factor': 4}, r'train_dataloader\.prefetch_factor=4 .*num_workers=0'),
        (DETECTOR, {'test_dataloader.timeout': 30}, r'test_dataloader\.timeout=30 .*num_workers=0'),
        (
            DETECTOR,
            {'train_dataloader.num_workers': -1},
            r'train_dataloader\.num_workers=-1: expected an integer from 0',
        ),
        (SEGMENTOR, {'train_dataloader.batch_size': 0}, r'train_dataloader\.batch_size=0: expected an integer from 1'),
        (SEGMENTOR, {'train_dataloader.batch_size': 2.5}, r'train_dataloader\.batch_size=2\.5'),
        (SEGMENTOR, {'train_dataloader.shuffle': True}, r'set train_dataloader\.sampler\.shuffle'),
        (SEGMENTOR, {'train_dataloader.sampler': None}, r'train_dataloader\.sampler is not set'),
        (
            DETECTOR,
            {
                'train_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler'),
                'train_dataloader.drop_last': True,
            },
            r'set train_dataloader\.batch_sampler\.drop_last',
        ),
        (SEGMENTOR, {'test_evaluator': None}, 'test_evaluator is not set; it is needed beside test_dataloader and'),
        (SEGMENTOR, {'val_dataloader': dict(a=1)}, 'val_cfg is not set; it is needed beside val_dataloader and'),
        (SEGMENTOR, {'optim_wrapper': None}, 'optim_wrapper is not set'),
        (SEGMENTOR, {'train_cfg': EPOCHS}, 'InfiniteSampler: an epoch-based training would never'),
        (SEGMENTOR, {'test_dataloader.sampler.type': 'InfiniteSampler'}, 'InfiniteSampler: test_cfg would never end'),
        (SEGMENTOR, {'train_cfg.max_iters': -1}, r'train_cfg\.max_iters=-1: expected an integer from 0'),
        (SEGMENTOR, {'train_cfg.max_epochs': 3}, 'train_cfg has max_epochs and max_iters'),
        (SEGMENTOR, {'train_cfg.val_interval': 0}, r'train_cfg\.val_interval=0'),
        (
            SEGMENTOR,
            {'train_cfg.type': 'EpochBasedTrainLoop'},
            r'train_cfg\.max_iters is set, but train_cfg\.type=EpochBasedTrainLoop takes max_epochs',
        ),
        (
            DETECTOR,
            {'param_scheduler': [dict(type='MultiStepLR', by_epoch=True, milestones=[8, 11])]},
            r'param_scheduler\.0\.by_epoch=True: MultiStepLR would count epochs.*train_cfg\.max_iters',
        ),
        (
            SEGMENTOR,
            {'test_evaluator': dict(type='mmdet.CocoMetric', metric='bbox')},
            r'test_evaluator\.type=CocoMetric is for detection, but model\.type=EncoderDecoder',
        ),
        (
            DETECTOR,
            {'test_evaluator': [dict(type='CocoMetric'), dict(type='mmbackbones.IoUMetric')]},
            r'test_evaluator\.type=IoUMetric is for segmentation, but model\.type=MaskRCNN is for detection',
        ),
        (
            SEGMENTOR,
            {'train_dataloader.dataset': dict(type='RepeatDataset', times=2, dataset=dict(type='mmdet.CocoDataset'))},
            r'train_dataloader\.dataset\.type=CocoDataset is for detection',
        ),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_what_cannot_work_is_named(path, changes, words):
    cfg = changed(path, changes)
    with pytest.raises(InputError, match=words) as caught:
        require_workable(cfg, training=True)
    assert '\n' not in str(caught.value)


def test_a_test_alone_needs_no_settings_of_the_training():
    cfg = changed(SEGMENTOR, {'train_dataloader.persistent_workers': True})
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    require_workable(cfg, training=False)


@pytest.mark.parametrize(
    ('path', 'changes', 'words'),
    [
        (
            SEGMENTOR,
            {'train_cfg.max_iters': 20, 'default_hooks.checkpoint.interval': 10},
            'train_cfg.max_iters=20): param_scheduler.0.end=30, so that the training ends inside its warm-up '
            '(LinearLR); param_scheduler.1.begin=30, so that PolyLR never begins',
        ),
        (SEGMENTOR, {'train_cfg.max_iters': 400}, 'param_scheduler.1.end=500, so that PolyLR is cut off'),
        (
            DETECTOR,
            {'param_scheduler': [dict(type='MultiStepLR', by_epoch=False, milestones=[200, 400])]},
            'param_scheduler.0.milestones=[400] are never reached',
        ),
        (
            SEGMENTOR,
            {'default_hooks.checkpoint.interval': 1000},
            'default_hooks.checkpoint.interval=1000 is longer than the training (train_cfg.max_iters=500): only the',
        ),
        (
            SEGMENTOR,
            {'default_hooks.checkpoint.interval': 1000, 'default_hooks.checkpoint.save_last': False},
            'no checkpoint is saved',
        ),
        (SEGMENTOR, {'default_hooks.checkpoint.by_epoch': True}, 'by_epoch=True, but the training counts iterations'),
        (SEGMENTOR, VALIDATED, 'train_cfg.val_interval=1000 is longer than the training (train_cfg.max_iters=500)'),
        (SEGMENTOR, {**VALIDATED, 'train_cfg.val_begin': 501}, 'it is never validated'),
        (SEGMENTOR, {'default_hooks.checkpoint.save_best': 'mIoU'}, 'save_best=mIoU has no effect'),
        (SEGMENTOR, {'custom_hooks': [dict(type='EarlyStoppingHook')]}, 'custom_hooks.0.type=EarlyStoppingHook has no'),
    ],
)
def test_what_does_not_fit_the_length_is_told_once(path, changes, words):
    (note,) = schedule_notes(changed(path, changes), epoch_length=8)
    assert words in note and '\n' not in note


def test_a_warm_up_counted_in_iterations_may_be_longer_than_a_short_epoch_based_training():
    """12 epochs of few images of one's own end inside the recipe's 1000 iterations."""
    cfg = load_config(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')
    (note,) = schedule_notes(cfg, epoch_length=3)
    assert (
        'max_epochs=12, 36 iterations): param_scheduler.0.end=1000, so that the training ends inside its warm' in note
    )
    assert not list(schedule_notes(cfg, epoch_length=7330))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_our_own_configs_pass_without_a_word(path):
    cfg = load_config(path)
    require_workable(cfg, training=True)
    assert not list(schedule_notes(cfg, epoch_length=7330))
