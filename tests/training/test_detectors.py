"""Every detection task of configs/tasks, scaled down to the generated shapes, trains and tests as a user calls it."""

import json
import time
from pathlib import Path

import pytest

from mmbackbones.analysis.complexity.count import count_complexity
from mmbackbones.analysis.speed.worker import NetworkCase, NetworkStep
from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.engine import cli
from mmbackbones.engine.config import load_config
from tests.conftest import ROOT

SHRUNK = 8  # divides every length in pixels that a pipeline names
PIXELS = ('scale', 'scales', 'crop_size', 'size', 'img_scale')
# Settings of the heads by key: widths, and numbers of regions.
SMALLER = dict(
    num_classes=3,
    out_channels=32,
    in_channels=32,
    feat_channels=32,
    conv_out_channels=32,
    fc_out_channels=64,
    num=32,
    nms_pre=200,
    max_per_img=50,
    score_thr=0.0,  # after four steps nothing scores higher
)
# Of each task one hierarchical network and one of a single stride.
RUNS = {
    'mask-rcnn_3x': ('vmamba_mini',),
    'cascade-mask-rcnn_3x': ('mambavision_mini', 'vim_mini'),
    'cascade-mask-rcnn_lsj-100e': ('vim_mini', 'convnext_mini'),
    'rtmdet-ins_100e': ('vmamba_mini', 'deit_mini'),
    'rtmdet-ins-tiny_100e': ('efficientvmamba_mini',),
}


def shrink(node: object, pixels: bool = False) -> object:
    """Lengths of pipelines divided by SHRUNK, and the settings of SMALLER, at any depth."""
    if isinstance(node, dict):
        changed = {key: shrink(value, pixels or key in PIXELS) for key, value in node.items()}
        return {
            key: SMALLER[key] if key in SMALLER and isinstance(node[key], int | float) else value
            for key, value in changed.items()
        }
    if isinstance(node, list | tuple):
        return type(node)(shrink(value, pixels) for value in node)
    return max(1, node // SHRUNK) if pixels and isinstance(node, int) else node


def small_task(task: str, data: Path, folder: Path) -> Path:
    """The task's config without a backbone, as a file: its pipelines, heads and hooks, small and short."""
    cfg = load_config(ROOT / f'configs/tasks/{task}_coco.py', needs_backbone=False)
    model = cfg.model.to_dict()
    shapes = load_config(ROOT / 'configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py', needs_backbone=False)
    cfg.model = shrink(model)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2, pin_memory=False)
        loader.dataset.update(
            data_root=f'{data}/coco/',
            metainfo=shapes.metainfo,
            pipeline=shrink(loader.dataset.pipeline),
        )
    for hook in cfg.get('custom_hooks', ()):
        if hook.type == 'PipelineSwitchHook':
            hook.update(switch_epoch=1, switch_pipeline=shrink(hook.switch_pipeline))
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{data}/coco/annotations/instances_val2017.json'
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.update(max_epochs=2, val_interval=3)
        cfg.train_cfg.pop('dynamic_intervals', None)
    else:
        cfg.train_cfg.update(max_iters=4, val_interval=5)
        cfg.default_hooks.checkpoint.interval = 4
    path = folder / f'{task}_coco.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=4, val=2)


@pytest.fixture
def _unformatted(monkeypatch):
    """mmengine lays out the text of a config a dozen times per run, which takes longer than these trainings."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))


@pytest.mark.slow
@pytest.mark.usefixtures('_unformatted')
@pytest.mark.parametrize(
    ('task', 'network'), [(task, network) for task, networks in RUNS.items() for network in networks]
)
def test_trains_and_tests(task, network, shapes, tmp_path):
    path = small_task(task, shapes, tmp_path)
    cli.train([str(path), '--backbone', network, '--work-dir', str(tmp_path / 'work')])
    trained = json.loads((tmp_path / 'work/final/run.json').read_text())
    assert trained['task'] == 'detection' and trained['backbone'] == network
    assert trained['iterations'] == 4
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= trained['metrics'].keys()
    checkpoint = next(tmp_path.glob('work/*_[24].pth'))
    out = tmp_path / 'tested'
    cli.test(
        [str(path), str(checkpoint), '--backbone', network, '--work-dir', str(tmp_path / 'other'), '--out', str(out)]
    )
    tested = json.loads((out / 'run.json').read_text())
    assert tested['metrics'] == trained['metrics']


@pytest.mark.full
@pytest.mark.parametrize(
    ('task', 'network', 'size'),
    [
        ('rtmdet-ins-tiny_100e', 'efficientvmamba_tiny', 640),
        ('rtmdet-ins_100e', 'vmamba_tiny_s1l8', 640),
        ('cascade-mask-rcnn_lsj-100e', 'vim_tiny', 1024),
        ('cascade-mask-rcnn_3x', 'convnext_tiny', 800),
        ('cascade-mask-rcnn_3x', 'mambavision_tiny', 800),
    ],
)
def test_one_step_at_full_size(task, network, size, tmp_path):
    """The whole network at the size of its recipe: one image, forward, backward, optimizer. Prints what it counts."""
    # Drop path would leave whole blocks without a gradient.
    options = {'model.backbone.init_cfg': None, 'model.backbone.drop_path_rate': 0.0}
    cfg = load_config(ROOT / f'configs/tasks/{task}_coco.py', options, network)
    cfg.dump(tmp_path / 'whole.py')
    step = NetworkStep(NetworkCase(str(tmp_path / 'whole.py'), size=size, batch=1, part='model', step='training'))
    before = {name: parameter.clone() for name, parameter in step.model.named_parameters()}
    started = time.monotonic()
    step(step.images(size), step.samples(size))
    seconds = time.monotonic() - started
    moved = [name for name, value in step.model.named_parameters() if not value.equal(before[name])]
    assert all(bool(value.isfinite().all()) for value in step.model.parameters())
    assert len(moved) > 0.8 * len(before), 'the gradient reaches the network'
    counted = count_complexity(cfg, (size, size))
    millions, giga = counted.params['total'] / 1e6, counted.macs['total'] / 1e9
    print(f'{task} {network} {size}x{size}: {millions:.1f} M parameters, {giga:.0f} G MACs, a step in {seconds:.0f} s')
