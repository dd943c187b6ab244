"""The line at the end of a command states whatever metrics there are, and says what is not there."""

import pytest
from mmengine.config import Config

from mmbackbones.engine.result import headline, paint_into


@pytest.mark.parametrize(
    ('metrics', 'line'),
    [
        ({'coco/bbox_mAP': 0.5}, 'box AP 0.500'),
        ({'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.25}, 'box AP 0.500  mask AP 0.250'),
        ({'coco/bbox_mAP': -1.0}, 'box AP n/a  (n/a: the test data has no objects to find)'),
        ({'mIoU': float('nan'), 'aAcc': 1.0}, 'aAcc 1.00  without a value: mIoU'),
        ({f'm{i}': i for i in range(8)}, 'm0 0  m1 1  m2 2  m3 3  m4 4  m5 5  and 2 more in the record'),
        ({}, 'no score: the evaluators report none; nothing was detected, or they only keep predictions'),
    ],
)
def test_headline(metrics, line):
    cfg = Config(dict(model=dict(type='RetinaNet'), default_scope='mmdet', test_evaluator=[dict(type='CocoMetric')]))
    assert headline(cfg, metrics) == line


def test_headline_without_a_score_by_intent():
    cfg = Config(dict(model=dict(type='A', decode_head={}), test_evaluator=dict(type='IoUMetric', format_only=True)))
    assert headline(cfg, {}) == 'no score: format_only=True only keeps predictions'


@pytest.mark.parametrize(('scope', 'kind'), [('mmdet', 'Det'), ('mmseg', 'Seg')])
def test_painting_needs_no_hook_in_the_config(scope, kind, tmp_path):
    cfg = Config(dict(model=dict(type='A'), default_scope=scope))
    paint_into(cfg, str(tmp_path))
    hook, visualizer = cfg.default_hooks.visualization, cfg.visualizer
    assert (hook.type, hook.draw, hook.interval) == (f'{scope}.{kind}VisualizationHook', True, 1)
    assert visualizer.type == f'{scope}.{kind}LocalVisualizer'
    assert str(tmp_path) in (hook.get('test_out_dir'), visualizer.get('save_dir'))
