"""The neck that gives plain backbones a pyramid."""

import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS


def build(**options):
    torch.manual_seed(0)
    return MODELS.build(dict(type='mmbackbones.SimpleFeaturePyramid', out_channels=8, **options))


@pytest.mark.parametrize('height, width', [(1, 1), (7, 9), (50, 84)])
@pytest.mark.parametrize('stride, scales', [(16, (4, 2, 1, 0.5)), (8, (2, 1, 0.5, 0.25))])
def test_strides(stride, scales, height, width):
    neck = build(in_channels=16, scales=scales)
    outs = neck((torch.randn(1, 16, height, width),))
    assert len(outs) == 5
    for out, level in zip(outs, (4, 8, 16, 32, 64)):
        assert out.shape[:2] == (1, 8)
        for side, tokens in zip(out.shape[2:], (height, width)):
            assert side == -(-tokens * stride // level)


def test_uses_the_last_map_and_every_parameter():
    neck = build(in_channels=[4, 16])
    maps = (torch.randn(1, 4, 6, 6), torch.randn(1, 16, 6, 6))
    outs = neck(maps)
    assert torch.equal(outs[0], neck(maps[1:])[0])
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_layer_norm_over_channels():
    neck = build(in_channels=16)
    out = neck((torch.randn(2, 16, 6, 6),))[2]
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 6, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 6, 6), atol=1e-3, rtol=0)


def test_without_norm_the_convolutions_have_biases():
    names = {name for name, _ in build(in_channels=16, norm_cfg=None).named_parameters()}
    assert not any('norm' in name for name in names)
    assert 'levels.2.0.conv.bias' in names and 'levels.2.1.conv.bias' in names
    assert 'levels.2.0.conv.bias' not in {name for name, _ in build(in_channels=16).named_parameters()}


def test_detector_takes_it_as_neck():
    from mmdet.models.necks import FPN
    from mmdet.registry import MODELS as MMDET

    neck = MMDET.build(dict(type='mmbackbones.SimpleFeaturePyramid', in_channels=16, out_channels=8))
    fpn = FPN(in_channels=[16] * 4, out_channels=8, num_outs=5)
    maps = [torch.randn(1, 16, 32 // 2**i, 32 // 2**i) for i in range(4)]
    assert [out.shape for out in neck((maps[2],))] == [out.shape for out in fpn(maps)]


def test_errors():
    with pytest.raises(InputError, match='num_outs=3, expected at least 4'):
        build(in_channels=16, num_outs=3)
    with pytest.raises(InputError, match='scale 3 in scales'):
        build(in_channels=16, scales=(4, 3))
