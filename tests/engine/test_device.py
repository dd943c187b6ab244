"""Running a GPU recipe on a machine without one."""

import pytest
import torch

from mmbackbones.engine.config import load_config
from mmbackbones.engine.device import adapt_to_device, precision
from mmbackbones.errors import InputError
from tests.conftest import ROOT

SEGMENTOR = str(ROOT / 'configs/mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')
DETECTOR = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)


def test_cpu_gets_fp32_and_bn_and_says_so(no_cuda):
    cfg = load_config(SEGMENTOR)
    assert precision(cfg) == 'fp16'
    notices = adapt_to_device(cfg, 'none')
    assert precision(cfg) == 'fp32' and cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper
    assert cfg.model.decode_head.norm_cfg.type == cfg.model.auxiliary_head.norm_cfg.type == 'BN'
    assert len(notices) == 2 and 'FP32' in notices[0] and 'SyncBN' in notices[1]
    assert adapt_to_device(cfg, 'none') == []


def test_gpu_config_is_left_alone(cuda, monkeypatch):
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: '13.0')
    for path in (SEGMENTOR, DETECTOR):
        cfg = load_config(path)
        before = cfg.pretty_text
        assert adapt_to_device(cfg, 'pytorch') == []
        assert cfg.pretty_text == before


def test_detector_on_gpu_takes_torchvisions_operators_where_mmcv_has_none(cuda, monkeypatch):
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: 'not available')
    monkeypatch.setattr('mmbackbones.engine.torchvision_route.install', lambda: 'torchvision')
    cfg = load_config(DETECTOR)
    before = cfg.pretty_text
    assert adapt_to_device(cfg, 'none') == ['torchvision']
    assert cfg.pretty_text == before
    cfg.model = dict(type='RetinaNet', bbox_head=dict(type='RetinaHead'))  # one stage needs NMS as well
    assert adapt_to_device(cfg, 'none') == ['torchvision']
    assert adapt_to_device(load_config(SEGMENTOR), 'none') == []  # UperNet calls none of them


def test_detector_on_gpu_needs_operators_from_somebody(cuda, monkeypatch):
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: 'not available')
    monkeypatch.setattr('torchvision.extension._has_ops', lambda: False)
    with pytest.raises(InputError, match='neither mmcv nor torchvision has CUDA operators'):
        adapt_to_device(load_config(DETECTOR), 'none')


def test_slurm_needs_cuda(no_cuda):
    with pytest.raises(InputError, match='--launcher slurm: no CUDA device'):
        adapt_to_device(load_config(SEGMENTOR), 'slurm')
