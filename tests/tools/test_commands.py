"""train.py and test.py as a user calls them: real processes on real and on generated data, and every bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbackbones.datasets.shapes import write_shapes
from tests.conftest import ROOT

DETECTOR = 'configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py'
SEGMENTOR = 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
FULL_DETECTOR = 'configs/mambaout/mask-rcnn_mambaout-femto_fpn_8xb2-amp-1x_coco.py'
FULL_SEGMENTOR = 'configs/mambaout/mambaout-femto_upernet_8xb2-amp-160k_ade20k-512x512.py'


def run(*command: object, fails: bool = False, **environment: str) -> str:
    """Run a command of ours in its own process and return what it printed (stderr alone if it must fail)."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHON': sys.executable, **environment}
    program = [sys.executable] if str(command[0]).endswith('.py') else ['bash']
    done = subprocess.run(
        [*program, *map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    if fails:
        assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stderr
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def error_line(*command: object) -> str:
    """The one line with which a command refuses bad input."""
    lines = [line for line in run(*command, fails=True).splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    return lines[0]


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / 'run.json').read_text())['metrics']


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=7)


@pytest.fixture(scope='module')
def data_options(shapes) -> dict[str, list[str]]:
    coco, ade = f'{shapes}/coco/', f'{shapes}/ade20k/'
    annotations = f'{coco}annotations/instances_val2017.json'
    return {
        DETECTOR: [
            f'train_dataloader.dataset.data_root={coco}',
            f'test_dataloader.dataset.data_root={coco}',
            f'test_evaluator.ann_file={annotations}',
        ],
        SEGMENTOR: [f'train_dataloader.dataset.data_root={ade}', f'test_dataloader.dataset.data_root={ade}'],
    }


@pytest.fixture(scope='module', params=[DETECTOR, SEGMENTOR], ids=['detector', 'segmentor'])
def trained(request, tmp_path_factory, data_options) -> tuple[str, Path, list[str]]:
    """A config, the work dir of its training over six iterations, and the options that name the data."""
    work_dir = tmp_path_factory.mktemp('work')
    options = data_options[request.param]
    log = run(
        'tools/train.py',
        request.param,
        '--work-dir',
        work_dir,
        '--cfg-options',
        *options,
        'train_cfg.max_iters=6',
        'default_hooks.checkpoint.interval=3',
        'default_hooks.logger.interval=1',
    )
    assert log.count('*** no CUDA: training in FP32') == 1
    assert 'eta: ' in log
    return request.param, work_dir, options


@pytest.mark.slow
class TestTrained:
    def test_testing_the_last_checkpoint_prints_what_training_printed(self, trained, tmp_path):
        config, work_dir, options = trained
        saved = (work_dir / Path(config).name).read_text()
        log = run(
            'tools/test.py',
            config,
            work_dir / 'iter_6.pth',
            '--work-dir',
            work_dir,
            '--out',
            tmp_path / 'out',
            '--show-dir',
            tmp_path / 'pictures',
            '--cfg-options',
            *options,
        )
        assert metrics_of(tmp_path / 'out') == metrics_of(work_dir / 'final')
        assert (work_dir / Path(config).name).read_text() == saved and 'AmpOptimWrapper' in saved
        assert log.count('*** ') >= 1
        assert len(list((tmp_path / 'pictures').rglob('*.[jp][pn]g'))) >= 7
        again = error_line(
            'tools/test.py',
            config,
            work_dir / 'iter_6.pth',
            '--work-dir',
            tmp_path / 'w',
            '--out',
            tmp_path / 'out',
            '--cfg-options',
            *options,
        )
        assert 'exists and is not empty' in again

    def test_record_says_what_was_run(self, trained):
        config, work_dir, _ = trained
        record = json.loads((work_dir / 'final' / 'run.json').read_text())
        assert record['config'] == Path(config).name and record['recipe'] == 'quickstart'
        assert len(record['config_hash']) == 12 and record['data_fingerprint'] and record['train_fingerprint']
        assert record['precision'] == 'fp32' and record['recipe_precision'] == 'fp16'
        assert len(record['image_ids']) == 7 and record['iterations'] == 6
        assert record['versions']['torch'] == torch.__version__

    def test_predictions_are_kept_without_pickle(self, trained):
        config, work_dir, _ = trained
        final = work_dir / 'final'
        if config == DETECTOR:
            results = json.loads((final / 'predictions.segm.json').read_text())
            assert all(isinstance(result['segmentation']['counts'], str) for result in results)
        else:
            assert len(list((final / 'masks').glob('*.png'))) == 7
            with np.load(final / 'areas.npz') as areas:
                assert areas['intersect'].shape == (7, 4)
        assert not [path for path in final.rglob('*') if path.suffix in ('.pkl', '.pth')]

    def test_two_processes_test_to_the_same_digits(self, trained, tmp_path):
        config, work_dir, options = trained  # seven images: the shards are uneven
        log = run(
            'tools/dist_test.sh',
            config,
            work_dir / 'iter_6.pth',
            2,
            '--work-dir',
            tmp_path / 'w',
            '--out',
            tmp_path / 'out',
            '--cfg-options',
            *options,
            PORT='29611',
        )
        assert metrics_of(tmp_path / 'out') == pytest.approx(metrics_of(work_dir / 'final'), abs=1e-6)
        assert log.count('*** no CUDA: gloo') == 1 and '*** no CUDA: training' not in log
        assert json.loads((tmp_path / 'out' / 'run.json').read_text())['world_size'] == 2

    def test_resume(self, trained, tmp_path):
        config, work_dir, options = trained
        longer = ['--cfg-options', *options, 'train_cfg.max_iters=8']
        assert '--resume: no checkpoint in' in error_line(
            'tools/train.py', config, '--work-dir', tmp_path / 'new', '--resume', *longer
        )
        saved = work_dir / Path(config).name  # is trained as any other config
        log = run(
            'tools/train.py', saved, '--work-dir', tmp_path / 'path', '--resume', work_dir / 'iter_3.pth', *longer
        )
        assert f'resuming from {work_dir / "iter_3.pth"}' in log
        assert json.loads((tmp_path / 'path' / 'final' / 'run.json').read_text())['iterations'] == 8
        log = run(
            'tools/train.py',
            config,
            '--work-dir',
            tmp_path / 'path',
            '--resume',
            '--cfg-options',
            *options,
            'train_cfg.max_iters=9',
        )
        assert 'iter_8.pth' in log
        log = run(
            'tools/train.py',
            config,
            '--work-dir',
            tmp_path / 'auto',
            '--resume',
            'auto',
            '--cfg-options',
            *options,
            'train_cfg.max_iters=1',
        )
        assert 'starting a new run' in log

    def test_multi_scale(self, trained, tmp_path):
        config, work_dir, options = trained
        command = [
            'tools/test.py',
            config,
            work_dir / 'iter_6.pth',
            '--work-dir',
            tmp_path,
            '--tta',
            '--cfg-options',
            *options,
        ]
        if config == DETECTOR:
            assert '--tta: for segmentors only' in error_line(*command)
        else:
            assert re.search(r'\*\*\* mIoU [\d.]+  multi-scale', run(*command))

    def test_bad_checkpoints(self, trained, tmp_path):
        config, work_dir, options = trained
        good = work_dir / 'iter_6.pth'
        whole = torch.load(good, weights_only=False)
        (tmp_path / 'truncated.pth').write_bytes(good.read_bytes()[:-2000])
        key = next(key for key in whole['state_dict'] if key.endswith('fc1.weight'))
        del whole['state_dict'][key]
        torch.save(whole, tmp_path / 'missing.pth')
        for name, named in {'truncated': '', 'missing': key, 'absent': ''}.items():
            path = tmp_path / f'{name}.pth'
            message = error_line('tools/test.py', config, path, '--work-dir', tmp_path / 'w', '--cfg-options', *options)
            assert str(path) in message and named in message


@pytest.mark.slow
def test_two_processes_train(data_options, tmp_path):
    for port, (config, options) in zip((29621, 29623), data_options.items()):
        run(
            'tools/dist_train.sh',
            config,
            2,
            '--work-dir',
            tmp_path / str(port),
            '--cfg-options',
            *options,
            'train_cfg.max_iters=3',
            PORT=str(port),
        )
        record = json.loads((tmp_path / str(port) / 'final' / 'run.json').read_text())
        assert record['world_size'] == 2 and record['iterations'] == 3


@pytest.mark.slow
def test_full_size_configs_on_real_data(realdata, tmp_path):
    """The very configs of the paper's comparison, a few iterations on real images with all classes."""
    coco, ade = f'{realdata}/coco_mini/', f'{realdata}/ade20k_mini/'
    workers = [
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'model.backbone.init_cfg=None',
    ]
    small = [
        'train_pipeline.2.scale=(256,256)',
        'train_dataloader.dataset.pipeline.2.scale=(256,256)',
        'test_dataloader.dataset.pipeline.1.scale=(256,256)',
        'val_dataloader.dataset.pipeline.1.scale=(256,256)',
    ]
    roots = [f'{split}_dataloader.dataset.data_root={{}}' for split in ('train', 'val', 'test')]
    annotations = [f'{split}_evaluator.ann_file={coco}annotations/instances_val2017.json' for split in ('val', 'test')]
    run(
        'tools/train.py',
        FULL_DETECTOR,
        '--work-dir',
        tmp_path / 'det',
        '--cfg-options',
        *workers,
        *small,
        *annotations,
        *(root.format(coco) for root in roots),
        'train_cfg.max_epochs=1',
        'train_dataloader.dataset.indices=3',
        'val_dataloader.dataset.indices=2',
    )
    assert 0 <= metrics_of(tmp_path / 'det' / 'final')['coco/segm_mAP'] <= 1
    run(
        'tools/train.py',
        FULL_SEGMENTOR,
        '--work-dir',
        tmp_path / 'seg',
        '--cfg-options',
        *workers,
        *(root.format(ade) for root in roots),
        'train_cfg.max_iters=2',
        'val_dataloader.dataset.indices=2',
        'test_dataloader.dataset.indices=2',
    )
    assert 0 <= metrics_of(tmp_path / 'seg' / 'final')['mIoU'] <= 100


@pytest.mark.slow
def test_without_weights_training_refuses(tmp_path, data_options):
    config = tmp_path / 'unweighted.py'
    config.write_text(
        f"_base_ = '{ROOT / DETECTOR}'\nmodel = dict(backbone=dict(init_cfg=dict(_delete_=True, "
        "type='mmbackbones.Pretrained', checkpoint=None)))\n"
    )
    message = error_line('tools/train.py', config, '--work-dir', tmp_path / 'w')
    assert 'model.backbone.init_cfg.checkpoint' in message and 'model.backbone.init_cfg=None' in message
    run(
        'tools/train.py',
        config,
        '--work-dir',
        tmp_path / 'w',
        '--cfg-options',
        *data_options[DETECTOR],
        'model.backbone.init_cfg=None',
        'train_cfg.max_iters=1',
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['model.backbone.drop_path=0.1'], 'MambaOut.__init__() got an unexpected keyword argument'),
        (['model.backbone.arch=huge'], "unknown arch 'huge'; known: "),
        (['model.backbone.type=mmbackbones.MambaIn'], 'mmbackbones.MambaIn is not in the'),
        (['model.backbne.arch=tiny'], "did you mean 'backbone'"),
        (['optim_wrapper.optimizer.lrr=1'], 'unexpected keyword argument'),
        (
            ['model.roi_head.mask_head.num_classes=5'],
            'mask_head.num_classes=5, but the data set has 3 classes: circle, ',
        ),
        (['test_dataloader.dataset.data_root=nowhere/', 'train_dataloader.dataset.data_root=nowhere/'], 'nowhere'),
    ],
)
def test_bad_options(options, message, tmp_path, data_options):
    line = error_line(
        'tools/train.py',
        DETECTOR,
        '--work-dir',
        tmp_path / 'w',
        '--cfg-options',
        *data_options[DETECTOR],
        'train_cfg.max_iters=1',
        *options,
    )
    assert message in line


def test_missing_config_and_usage():
    assert 'nowhere.py: no such config file' in error_line('tools/train.py', 'nowhere.py')
    for launcher in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        assert 'usage: ' in run(f'tools/{launcher}.sh', fails=True)
