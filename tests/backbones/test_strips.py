"""A strip of an image: maps and pyramid of every family, or one line that names its size."""

import pytest
import torch
from mmdet.models.necks import FPN
from mmseg.models.necks import Feature2Pyramid

from mmbackbones.engine.preflight.images import REFUSAL
from mmbackbones.errors import InputError
from mmbackbones.necks import SimpleFeaturePyramid
from tests.backbones.test_registry import build, image, rows

STRIPS = [(2, 50), (100, 12), (5, 5)]
BATCH_NORM = dict(type='BN')


def necks_of(backbone):
    channels, strides = backbone.out_channels, backbone.out_strides
    if len(set(strides)) > 1:
        return [FPN(list(channels), 8, num_outs=len(channels) + 1)]
    simple = SimpleFeaturePyramid(channels[-1], 8, norm_cfg=None)
    return [
        simple,
        *(Feature2Pyramid(channels[0], scales, BATCH_NORM) for scales in ([4, 2, 1, 0.5], [2, 1, 0.5, 0.25])),
    ]


@pytest.mark.parametrize('height, width', STRIPS)
@rows
def test_a_strip_gives_maps_or_is_named(config, resized, height, width):
    backbone = build(config).eval()
    with torch.no_grad():
        try:
            outs = backbone(image(height, width)[:1])
        except InputError as refusal:
            assert f'{height}x{width}' in str(refusal) and REFUSAL.search(str(refusal)) and '\n' not in str(refusal)
            return
        for out, stride in zip(outs, backbone.out_strides):
            assert out.isfinite().all()
            assert all(
                cells >= 1 and abs(cells - side / stride) < 1 for cells, side in zip(out.shape[2:], (height, width))
            )
        for neck in necks_of(backbone):
            maps = (outs * 4)[:4] if isinstance(neck, Feature2Pyramid) else outs
            try:
                levels = neck.eval()(maps)
            except RuntimeError as refusal:
                assert REFUSAL.search(str(refusal)) and isinstance(neck, Feature2Pyramid)
                continue
            assert all(min(level.shape[2:]) >= 1 for level in levels)
