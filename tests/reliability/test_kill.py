"""Whatever kills a training, and whenever: taken up again, it ends as if nothing had happened, to the last bit."""

import shutil
import signal

import pytest

from mmbackbones.datasets.shapes import write_shapes
from tests.conftest import ROOT
from tests.reliability.harness import PREEMPTED, Training, assert_equal, kill_often

SEGMENTOR = ROOT / 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
DETECTOR = ROOT / 'configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py'

BY_ITERATION = """
_base_ = '{base}'
model = dict(backbone=dict(drop_path_rate=0.3))
train_cfg = dict(max_iters={iters})
train_dataloader = dict(batch_size=2, dataset=dict(data_root='{shapes}/ade20k/'))
test_dataloader = dict(dataset=dict(data_root='{shapes}/ade20k/'))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
"""
# It validates, which the resumed run does not repeat: that must not move the random numbers of the training.
BY_EPOCH = """
_base_ = '{base}'
model = dict(backbone=dict(drop_path_rate=0.3))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs={iters} // 4, val_interval=1)
train_dataloader = dict(batch_size=2, sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
                        dataset=dict(data_root='{shapes}/coco/', indices=8, filter_cfg=None))
val_cfg = dict(_delete_=True, type='ValLoop')
test_dataloader = dict(dataset=dict(data_root='{shapes}/coco/', indices=2))
val_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', data_root='{shapes}/coco/', indices=2, test_mode=True,
                 metainfo={{{{_base_.metainfo}}}}, ann_file='annotations/instances_val2017.json',
                 data_prefix=dict(img='val2017/'), pipeline={{{{_base_.test_pipeline}}}}))
annotations = '{shapes}/coco/annotations/instances_val2017.json'
val_evaluator = dict(_delete_=True, type='CocoMetric', ann_file=annotations, metric='bbox')
test_evaluator = dict(ann_file=annotations)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=True, interval=1, save_best='coco/bbox_mAP',
                                                               rule='greater'))
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
"""


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=4)


def make(folder, shapes, loop, iters):
    template, base = {'iteration': (BY_ITERATION, SEGMENTOR), 'epoch': (BY_EPOCH, DETECTOR)}[loop]
    config = folder / f'{loop}_{iters}.py'
    config.write_text(template.format(base=base, shapes=shapes, iters=iters))
    return lambda name: Training(config, folder / name)


def reference_of(training, name):
    code, text = training.run()
    assert code == 0, text[-3000:]
    return (training.work_dir / name).stat().st_size


@pytest.mark.slow
@pytest.mark.promise('killed')
def test_killed_and_resumed_by_iteration(tmp_path, shapes, figure):
    """Four deaths, at a random moment and within saving; with the two of the epoch loop six in CI."""
    iters = 30
    new = make(tmp_path, shapes, 'iteration', iters)
    size = reference_of(reference := new('reference'), f'iter_{iters}.pth')
    kill_often(killed := new('killed'), kills=4, seed=5, mean_iterations=4, file_bytes=size)
    shutil.move(killed.work_dir, tmp_path / 'moved')  # a moved work dir resumes as well
    killed.work_dir = tmp_path / 'moved'
    code, text = killed.run('--resume', 'auto')
    assert code == 0, text[-3000:]
    assert_equal(killed, reference, f'iter_{iters}.pth', iters)
    figure(f'by iteration: {len(killed.log)} kills, every bit equal')
    assert not list(killed.work_dir.glob('.*.writing'))
    assert len(list(killed.work_dir.glob('iter_*.pth'))) == 2  # max_keep_ckpts


@pytest.mark.slow
@pytest.mark.promise('killed')
def test_killed_and_resumed_by_epoch(tmp_path, shapes, figure):
    iters = 12
    new = make(tmp_path, shapes, 'epoch', iters)
    reference_of(reference := new('reference'), 'epoch_3.pth')
    killed = new('killed')
    killed.kill(signal.SIGKILL, after_iterations=6, delay=0.0)
    assert killed.kill(signal.SIGTERM, after_iterations=2, delay=0.0) == PREEMPTED
    code, text = killed.run('--resume', 'auto')
    assert code == 0, text[-3000:]
    assert_equal(killed, reference, 'epoch_3.pth', iters)
    figure(f'by epoch: {len(killed.log)} kills, every bit equal')


@pytest.mark.slow
@pytest.mark.promise('atomic')
def test_full_disk_ends_with_a_sentence_and_is_resumed(tmp_path, shapes):
    iters = 6
    new = make(tmp_path, shapes, 'iteration', iters)
    size = reference_of(reference := new('reference'), f'iter_{iters}.pth')
    stopped = new('stopped')
    stopped.work_dir.mkdir()
    for name in ('iter_3.pth', 'iter_3.pth.sha256'):
        shutil.copy(reference.work_dir / name, stopped.work_dir)
    before = {path.name: path.read_bytes() for path in stopped.work_dir.iterdir()}
    code, text = stopped.run('--resume', 'auto', fatal=('full', size // 2))
    assert code == 2, text[-3000:]
    assert f'cannot write {stopped.work_dir}/iter_6.pth: File too large; earlier checkpoints are as they were' in text
    assert {path.name: path.read_bytes() for path in stopped.work_dir.glob('*iter_*')} == before
    code, text = stopped.run('--resume', 'auto')
    assert code == 0, text[-3000:]
    assert_equal(stopped, reference, f'iter_{iters}.pth', iters)


@pytest.mark.full
@pytest.mark.promise('killed-often')
@pytest.mark.parametrize('loop', ['iteration', 'epoch'])
def test_killed_fifteen_times(tmp_path, shapes, loop, figure):
    iters = 100
    new = make(tmp_path, shapes, loop, iters)
    last = f'iter_{iters}.pth' if loop == 'iteration' else f'epoch_{iters // 4}.pth'
    size = reference_of(reference := new('reference'), last)
    kill_often(killed := new('killed'), kills=15, seed=8, mean_iterations=6, file_bytes=size)
    code, text = killed.run('--resume', 'auto')
    assert code == 0, text[-3000:]
    assert_equal(killed, reference, last, iters)
    figure(f'by {loop}: {len(killed.log)} kills, every bit equal')
