"""The tasks on larger images: Cityscapes and LoveDA, in miniature from the command line, and at their full size."""

import json
import os
import subprocess
import sys

import pytest
import torch
from mmengine.registry import DefaultScope

from mmbackbones.analysis.tokens.count import network_sizes
from mmbackbones.engine.config import load_config
from mmbackbones.engine.device import adapt_to_device
from mmbackbones.registry import MODELS
from tests.configs.test_common_recipe import flatten
from tests.conftest import ROOT
from tests.datasets.layouts import write_cityscapes, write_loveda

CONFIGS = ROOT / 'configs'
ADE20K = 'tasks/upernet_160k_ade20k-512x512.py'
TASKS = {  # classes, crop (height, width) and iterations
    'tasks/upernet_160k_cityscapes-512x1024.py': (19, (512, 1024), 160000),
    'tasks/upernet_160k_cityscapes-1024x1024.py': (19, (1024, 1024), 160000),
    'tasks/upernet_80k_loveda-1024x1024.py': (7, (1024, 1024), 80000),
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


COMMANDS = """
import json, sys
from mmbackbones.engine.cli import test, train

for name, argv in json.loads(sys.argv[1]):
    dict(train=train, test=test)[name](argv)
"""


def run(*commands: tuple[str, list]) -> str:
    """Call commands one after the other in one process of their own, and return what they print."""
    calls = [(name, [str(part) for part in argv]) for name, argv in commands]
    done = subprocess.run(
        [sys.executable, '-c', COMMANDS, json.dumps(calls)],
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


MINIATURES = {
    'upernet_160k_cityscapes-512x1024': ('vmamba_mini', write_cityscapes, sizes((128, 64), (32, 64), (24, 48))),
    'upernet_160k_cityscapes-1024x1024': ('mambaout_mini', write_cityscapes, sizes((128, 64), (64, 64), (48, 48))),
    'upernet_80k_loveda-1024x1024': ('vim_mini', write_loveda, sizes((64, 64), (64, 64), (48, 48))),
}


@pytest.mark.slow
def test_each_task_trains_and_tests_from_the_command_line(tmp_path):
    calls = []
    for task, (backbone, write, options) in MINIATURES.items():
        data = write(tmp_path / task / 'data')
        roots = [f'{split}_dataloader.dataset.data_root={data}/' for split in ('train', 'val', 'test')]
        command, options = [f'configs/tasks/{task}.py'], ['--cfg-options', *roots, *MINIATURE, *options]
        work_dir, named = tmp_path / task / 'run', ['--backbone', backbone]
        calls.append(('train', [*command, *named, '--work-dir', work_dir, *options]))
        command.append(work_dir / 'iter_3.pth')
        for mode in ('whole', 'slide'):
            out = ['--out', tmp_path / task / mode]
            calls.append(('test', [*command, *named, *out, *options, f'model.test_cfg.mode={mode}']))
    printed = run(*calls)
    for task in MINIATURES:
        trained, whole, slide = (
            json.loads((tmp_path / task / name / 'run.json').read_text()) for name in ('run/final', 'whole', 'slide')
        )
        assert {'mIoU', 'mBIoU', 'mBIoU_thin'} < set(trained['metrics']) and trained['metrics'] == whole['metrics']
        assert f'mBIoU {whole["metrics"]["mBIoU"]:.2f}' in printed
        assert slide['settings']['model']['test_cfg']['mode'] == 'slide' and slide['metrics']['mBIoU'] >= 0


@pytest.mark.parametrize('task', TASKS)
def test_a_task_differs_from_ade20ks_in_its_data_alone(task):
    classes, crop, length = TASKS[task]
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
def test_one_training_step_at_full_size(task):
    """Two random images of the real crop through network and heads, loss, backward and AdamW."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    classes, crop, _ = TASKS[task]
    cfg = load_config(CONFIGS / task, backbone='mambaout_femto')
    adapt_to_device(cfg, 'none')
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model).train()
    images, samples = torch.randint(0, 256, (2, 3, *crop), dtype=torch.uint8), []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=crop, ori_shape=crop))
        sample.gt_sem_seg = PixelData(data=torch.arange(crop[1]).remainder(classes).expand(1, *crop).contiguous())
        samples.append(sample)
    before = model.decode_head.conv_seg.weight.detach().clone()
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), training=True)
    assert data['inputs'].shape == (2, 3, *crop)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()
    assert loss.isfinite() and before.shape[0] == classes
    assert not torch.equal(before, model.decode_head.conv_seg.weight)
