"""The tasks on larger images: Cityscapes and LoveDA, in miniature from the command line, and at their full size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmbackbones.analysis.tokens.count import network_sizes
from mmbackbones.engine.config import load_config
from tests.configs.test_common_recipe import flatten
from tests.conftest import ROOT
from tests.datasets.layouts import write_cityscapes, write_loveda

CONFIGS = ROOT / 'configs'
ADE20K = 'tasks/upernet_160k_ade20k-512x512.py'
TASKS = {
    'tasks/upernet_160k_cityscapes-512x1024.py': (19, (512, 1024), (1024, 2048), 160000),
    'tasks/upernet_160k_cityscapes-1024x1024.py': (19, (1024, 1024), (1024, 2048), 160000),
    'tasks/upernet_80k_loveda-1024x1024.py': (7, (1024, 1024), (1024, 1024), 80000),
}
# What a miniature changes: sizes, the width of the heads, and the length.
MINIATURE = [
    'model.decode_head.channels=16',
    'model.auxiliary_head.channels=16',
    'train_cfg.max_iters=3',
    'train_cfg.val_interval=3',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.logger.interval=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
]


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def sizes(scale: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> list[str]:
    """Options that shrink resize (width, height), crop and windows (height, width)."""
    return [
        f'train_dataloader.dataset.pipeline.2.scale={scale}'.replace(' ', ''),
        *(
            f'{key}={crop}'.replace(' ', '')
            for key in (
                'train_dataloader.dataset.pipeline.3.crop_size',
                'model.data_preprocessor.size',
                'model.test_cfg.crop_size',
            )
        ),
        f'model.test_cfg.stride={stride}'.replace(' ', ''),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'backbone', 'write', 'options'),
    [
        (
            'upernet_160k_cityscapes-512x1024.py',
            'vmamba_mini',
            write_cityscapes,
            sizes((128, 64), (32, 64), (24, 48)),
        ),
        (
            'upernet_160k_cityscapes-1024x1024.py',
            'mambaout_mini',
            write_cityscapes,
            sizes((128, 64), (64, 64), (48, 48)),
        ),
        ('upernet_80k_loveda-1024x1024.py', 'vim_mini', write_loveda, sizes((64, 64), (64, 64), (48, 48))[:-2]),
    ],
    ids=['cityscapes-512x1024', 'cityscapes-1024x1024', 'loveda'],
)
def test_a_task_trains_and_tests_from_the_command_line(task, backbone, write, options, tmp_path):
    data = write(tmp_path / 'data')
    roots = [f'{split}_dataloader.dataset.data_root={data}/' for split in ('train', 'val', 'test')]
    options = [*roots, *MINIATURE, *options]
    command = [f'configs/tasks/{task}', '--backbone', backbone]
    run('tools/train.py', *command, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    metrics = json.loads((tmp_path / 'run/final/run.json').read_text())['metrics']
    assert {'mIoU', 'mBIoU', 'mBIoU_thin'} < set(metrics) and metrics['mIoU'] >= 0
    checkpoint = tmp_path / 'run/iter_3.pth'
    printed = run('tools/test.py', *command[:1], checkpoint, *command[1:], '--cfg-options', *options)
    assert f'mIoU {metrics["mIoU"]:.2f}' in printed and f'mBIoU {metrics["mBIoU"]:.2f}' in printed
    if 'cityscapes' in task:
        slid = ['--out', tmp_path / 'slide', '--cfg-options', *options, 'model.test_cfg.mode=slide']
        run('tools/test.py', *command[:1], checkpoint, *command[1:], *slid)
        record = json.loads((tmp_path / 'slide/run.json').read_text())
        assert record['settings']['model']['test_cfg']['mode'] == 'slide' and record['metrics']['mBIoU'] >= 0


@pytest.mark.parametrize('task', TASKS)
def test_a_task_differs_from_ade20ks_in_its_data_alone(task):
    classes, crop, image, length = TASKS[task]
    cfg, reference = (load_config(CONFIGS / path, backbone='vmamba_tiny_s1l8') for path in (task, ADE20K))
    ours, theirs = (flatten(each._cfg_dict.to_dict()) for each in (cfg, reference))
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...)}
    data = ('dataset_type', 'data_root', 'crop_size', 'train_', 'val_', 'test_', 'tta_')
    schedule = ('train_cfg', 'param_scheduler', 'default_hooks.checkpoint.interval') * ('80k' in task)
    head = ('model.data_preprocessor.size', 'model.decode_head.num_classes', 'model.auxiliary_head.num_classes')
    assert [key for key in differing if not key.startswith((*data, *head, 'model.test_cfg', *schedule))] == []
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == classes
    assert cfg.train_cfg.max_iters == length == cfg.param_scheduler[1].end
    assert cfg.model.data_preprocessor.size == crop == cfg.train_dataloader.dataset.pipeline[3].crop_size
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.test_cfg.mode == 'whole'


def test_whole_and_sliding_tests_see_the_sizes_that_they_should(tmp_path):
    data = write_cityscapes(tmp_path, per_city=1, size=(128, 256))
    task = CONFIGS / 'tasks/upernet_160k_cityscapes-512x1024.py'
    root = {'test_dataloader.dataset.data_root': f'{data}/'}
    whole = load_config(task, root, 'vmamba_mini')
    slide = load_config(task, {**root, 'model.test_cfg': dict(mode='slide', crop_size=(64, 96))}, 'vmamba_mini')
    assert network_sizes(whole).hw.tolist() == [[128, 256]]
    assert network_sizes(slide).hw.tolist() == [[64, 96]]
    assert network_sizes(whole, 'train').hw.tolist() == [[512, 1024]]


@pytest.mark.full
@pytest.mark.parametrize('task', TASKS)
def test_one_step_at_full_size(task):
    """Batch 2 of the real crop, loss, backward and AdamW; then a test of one whole image."""
    from mmbackbones.analysis.speed.worker import NetworkCase, NetworkStep, _segmentation_sample

    classes, crop, image, _ = TASKS[task]
    path = Path(ROOT / 'work_dirs' / Path(task).name)
    path.parent.mkdir(exist_ok=True)
    load_config(CONFIGS / task, backbone='vmamba_tiny_s1l8').dump(path)
    step = NetworkStep(NetworkCase(str(path), crop[0], part='model', step='training', batch=2))
    before = step.model.decode_head.conv_seg.weight.detach().clone()
    step(step.images(crop[0])[..., : crop[1]], [_segmentation_sample(crop[0], 'cpu') for _ in range(2)])
    assert before.shape[0] == classes and not torch.equal(before, step.model.decode_head.conv_seg.weight)
