"""torchvision's RoIAlign and NMS in place of mmcv's CUDA operators."""

import importlib
import sys

import pytest
import torch

from mmbackbones.engine import torchvision_route
from mmbackbones.engine.torchvision_route import CALLERS, torchvision_nms, torchvision_roi_align
from mmbackbones.errors import InputError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device: NMS of torchvision on it')


@pytest.fixture
def originals(monkeypatch):
    """The operators before anything is replaced, which undoes itself after the test."""
    for name, modules in CALLERS.items():
        for module in map(importlib.import_module, modules):
            monkeypatch.setattr(module, name, getattr(module, name))
    return {name: getattr(importlib.import_module(modules[0]), name) for name, modules in CALLERS.items()}


@pytest.fixture(autouse=True)
def eager():
    """Where torchvision's compiled part does not load, it compiles its Python path, for minutes."""
    with torch.compiler.set_stance('force_eager'):
        yield


def rois_in(height: int, width: int, count: int, images: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, dtype=torch.float64) * torch.tensor([width, height])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    boxes[0, 2:] = boxes[0, :2] + 0.01  # nearly empty; proposals that are empty are dropped before
    boxes[1] = torch.tensor([0, 0, width, height])  # proposals are clipped; beyond the image the Python path differs
    return torch.cat((torch.randint(images, (count, 1)), boxes), 1).float()


@pytest.mark.parametrize('size', [7, (14, 14), (3, 5)], ids=str)
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False], ids=['aligned', 'legacy'])
def test_roi_align_equals_mmcvs(originals, size, ratio, aligned):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 23, 31, dtype=torch.float64)  # float32 differs by the order of summation
    rois = rois_in(23 * 8, 31 * 8, 8, 2).double()
    outputs, gradients = [], []
    for operator in (originals['roi_align'], torchvision_roi_align):
        leaf = features.clone().requires_grad_()
        output = operator(leaf, rois, size, 1 / 8, ratio, 'avg', aligned)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output))
        outputs.append(output.detach())
        gradients.append(leaf.grad)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert gradients[0].abs().sum() > 0


def test_mask_targets_equal_mmcvs(originals):
    """What the mask head asks for: masks as images, a region for each, 28 x 28, no scaling."""
    torch.manual_seed(0)
    masks = (torch.rand(6, 1, 90, 120) > 0.5).float()
    rois = rois_in(90, 120, 6, 1)
    rois[:, 0] = torch.arange(6)
    args = (masks, rois, (28, 28), 1.0, 0, 'avg', True)
    torch.testing.assert_close(torchvision_roi_align(*args), originals['roi_align'](*args), atol=1e-5, rtol=1e-5)


def test_half_precision_keeps_coordinates():
    rois = torch.tensor([[0, 1200.3, 700.7, 1290.9, 790.1]])
    features = torch.randn(1, 2, 100, 160)
    pooled = torchvision_roi_align(features.half(), rois, 7, 1 / 8)
    assert pooled.dtype is torch.float16
    torch.testing.assert_close(pooled.float(), torchvision_roi_align(features, rois, 7, 1 / 8), atol=2e-3, rtol=2e-3)


def test_other_poolings_are_refused():
    with pytest.raises(InputError, match='pool_mode=max'):
        torchvision_roi_align(torch.randn(1, 1, 4, 4), torch.zeros(1, 5), 2, pool_mode='max')


def test_every_caller_is_named():
    """A module that binds the operators under a name of its own and is not listed would keep mmcv's."""
    importlib.import_module('mmdet.models')

    for name, modules in CALLERS.items():
        operator = getattr(importlib.import_module(modules[0]), name)
        bound = {
            module
            for module, loaded in list(sys.modules.items())
            if module.startswith(('mmdet.', 'mmseg.', 'mmcv.')) and vars(loaded).get(name) is operator
        }
        assert bound - {'mmcv.ops'} == set(modules)


def test_cpu_tensors_stay_with_mmcv(originals, monkeypatch):
    monkeypatch.setattr('torchvision.extension._has_ops', lambda: True)
    torch.manual_seed(0)
    assert torchvision_route.install() == torchvision_route.install()
    from mmcv.ops import RoIAlign, batched_nms

    features, rois = torch.randn(1, 3, 16, 16), rois_in(16, 16, 8, 1)
    expected = originals['roi_align'](features, rois, (7, 7), 1.0, 0, 'avg', True)
    assert torch.equal(RoIAlign(7)(features, rois), expected)
    scores = torch.rand(8)
    dets, kept = batched_nms(rois[:, 1:], scores, torch.zeros(8), dict(type='nms', iou_threshold=0.5))
    assert torch.equal(dets, originals['nms'](rois[:, 1:], scores, 0.5)[0]) and len(kept) > 0
    for name, modules in CALLERS.items():
        for module in map(importlib.import_module, modules):
            assert getattr(module, name).on_cuda in (torchvision_roi_align, torchvision_nms)


@needs_cuda
@pytest.mark.parametrize('options', [{}, dict(offset=1), dict(score_threshold=0.4), dict(max_num=7)], ids=str)
def test_nms_equals_mmcvs_ties_included(originals, options):
    torch.manual_seed(0)
    boxes = rois_in(200, 300, 400, 1)[:, 1:]
    scores = (torch.rand(400) * 20).round() / 20
    kept = originals['nms'](boxes, scores, 0.5, **options)
    found = torchvision_nms(boxes.cuda(), scores.cuda(), 0.5, **options)
    for ours, theirs in zip(found, kept):
        assert torch.equal(ours.cpu(), theirs)
