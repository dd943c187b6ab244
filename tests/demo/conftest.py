"""Untrained checkpoints of the quickstart's detector and segmentor, and models of them. Nothing is trained."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.demo.model import Model
from mmbackbones.engine.config import load_config
from tests.conftest import ROOT
from tests.miniatures import TASKS


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory) -> dict[str, tuple[str, str]]:
    """Config and checkpoint of each task."""
    folder, found = tmp_path_factory.mktemp('checkpoints'), {}
    for task, scope in (('detection', 'mmdet'), ('segmentation', 'mmseg')):
        cfg = load_config(ROOT / TASKS[task])
        torch.manual_seed(len(found))
        with DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build(cfg.model)
            model.init_weights()
        meta = dict(dataset_meta=dict(cfg.test_dataloader.dataset.metainfo))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f'{task}.pth')
        found[task] = str(ROOT / TASKS[task]), str(folder / f'{task}.pth')
    return found


@pytest.fixture(scope='session')
def models(checkpoints) -> dict[str, Model]:
    """A detector that keeps its ten best detections, and a segmentor."""
    few = {'model.test_cfg.rcnn.max_per_img': 10}
    return {
        'detection': Model(*checkpoints['detection'], device='cpu', score_threshold=0, overrides=few),
        'segmentation': Model(*checkpoints['segmentation'], device='cpu'),
    }


@pytest.fixture(scope='session')
def photos(tmp_path_factory) -> Path:
    """A folder of two images."""
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=1, val=2) / 'coco' / 'val2017'
