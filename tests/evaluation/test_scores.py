"""Runs are scored by what their evaluators were asked for."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmbackbones.errors import InputError
from mmbackbones.evaluation.predictions import FinishedRun, annotation_file, evaluators_of
from mmbackbones.evaluation.scores import score, scored_metrics


def run_of(evaluator, task='detection', folder=Path('run'), metrics=None):
    record = dict(task=task, settings=dict(test_evaluator=evaluator), metrics=metrics or {})
    return FinishedRun(folder, folder, record)


@pytest.mark.parametrize(
    ('task', 'evaluator', 'metrics'),
    [
        ('detection', dict(type='CocoMetric', metric='bbox'), ('box AP',)),
        ('detection', dict(type='CocoMetric'), ('box AP',)),
        ('detection', dict(type='mmdet.CocoMetric', metric=['bbox', 'segm']), ('box AP', 'mask AP')),
        ('detection', [dict(type='VOCMetric'), dict(type='CocoMetric', metric=['segm'])], ('mask AP',)),
        ('detection', None, ('box AP', 'mask AP')),
        ('segmentation', dict(type='IoUMetric', iou_metrics=['mDice']), ('mIoU', 'mDice')),
        ('segmentation', dict(type='mmbackbones.IoUMetric', iou_metrics='mIoU'), ('mIoU',)),
    ],
)
def test_metrics_of_any_evaluator(task, evaluator, metrics):
    assert scored_metrics(run_of(evaluator, task)) == metrics


@pytest.mark.parametrize(
    ('evaluator', 'message'),
    [
        (dict(type='VOCMetric', metric='mAP'), r'evaluators \(VOCMetric\) none is a CocoMetric'),
        (dict(type='CocoMetric', metric='proposal'), r'no predictions that can be scored'),
        (dict(type='CocoMetric', iou_thrs=[0.5]), r'its evaluator has iou_thrs=\[0\.5\]'),
    ],
)
def test_what_cannot_be_scored_is_said(evaluator, message):
    with pytest.raises(InputError, match=rf'^run: .*{message}'):
        scored_metrics(run_of(evaluator))


def test_annotations_of_one_of_several_evaluators(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    several = run_of([dict(type='VOCMetric'), dict(type='CocoMetric', ann_file=str(tmp_path / 'a.json'))])
    assert annotation_file(several) == tmp_path / 'a.json' and len(evaluators_of(several)) == 2
    with pytest.raises(InputError, match='its evaluator names no COCO annotation file; name one with --annotations'):
        annotation_file(run_of(dict(type='VOCMetric')))


def test_dice_is_that_of_the_record(tmp_path):
    areas = dict(
        intersect=[[2, 1], [0, 3]], union=[[4, 3], [1, 4]], prediction=[[3, 2], [0, 4]], label=[[3, 2], [1, 3]]
    )
    np.savez(tmp_path / 'areas.npz', image_ids=['a', 'b'], **{name: np.array(rows) for name, rows in areas.items()})
    dice = (2 * 2 / (3 + 4) + 2 * 4 / (6 + 5)) / 2
    evaluator = dict(type='IoUMetric', iou_metrics=['mDice'])
    run = run_of(evaluator, 'segmentation', tmp_path, dict(mDice=round(100 * dice, 2)))
    values = score(run, SimpleNamespace(image_ids=['a', 'b']), np.ones((1, 2), int), splits=())
    assert values['mDice', 'all', 'all'][0] == pytest.approx(100 * dice)
    with pytest.raises(InputError, match=r'the saved predictions give mDice .*, the record says 50'):
        score(
            run_of(evaluator, 'segmentation', tmp_path, dict(mDice=50.0)),
            SimpleNamespace(image_ids=['a', 'b']),
            np.ones((1, 2), int),
            splits=(),
        )
