"""Whatever a metric reports can be shown, and what mmdet and mmseg report is known before they do."""

import pytest
import torch

from mmbackbones.evaluation.metric_names import format_metric, key_of, main_metrics, percent, reported_keys
from mmbackbones.evaluation.metrics import IoUMetric


@pytest.mark.parametrize(
    ('metrics', 'shown'),
    [
        (
            {'coco/segm_mAP': 0.5, 'coco/bbox_mAP_50': 0.9, 'coco/bbox_mAP': 0.6},
            {'box AP': '0.600', 'mask AP': '0.500'},
        ),
        ({'coco/bbox_mAP': -1}, {'box AP': 'n/a'}),
        ({'aAcc': 9, 'mDice': 99.114, 'mFscore': 1}, {'mDice': '99.11', 'mFscore': '1.00'}),
        ({'night/mIoU': 40, 'mIoU': 50, 'night/mAcc': 1}, {'mIoU': '50.00', 'mIoU (night)': '40.00'}),
        ({'day/bbox_mAP': 0.4}, {'box AP (day)': '0.400'}),
        ({'pascal_voc/mAP': 0.75, 'pascal_voc/AP50': 0.75}, {'VOC mAP': '0.750'}),
        ({'coco/bbox_mAP_50': 0.5}, {'coco/bbox_mAP_50': '0.500'}),
        ({'abs_rel': 0.123456, 'rmse': 1234567.0}, {'abs_rel': '0.1235', 'rmse': '1.235e+06'}),
        ({}, {}),
    ],
)
def test_main_metrics(metrics, shown):
    found = main_metrics(metrics)
    assert {label: format_metric(label, value) for label, value in found.items()} == shown
    assert list(found) == list(shown) and all(metrics[key_of(label)] == value for label, value in found.items())


def test_fractions_in_percent():
    scores = {'box AP': 0.5, 'box AP (day)': 0.5, 'VOC mAP': 0.5, 'coco/bbox_mAP_50': 0.5, 'mIoU': 50, 'mDice (x)': 50}
    assert {percent(label, value) for label, value in scores.items()} == {50}


@pytest.mark.parametrize('kinds', [['mIoU'], ['mDice'], ['mFscore', 'mIoU'], 'mDice', ['mIoU', 'mDice', 'mFscore']])
@pytest.mark.parametrize('prefix', [None, 'night'])
def test_keys_of_iou_metrics_are_those_that_it_reports(kinds, prefix):
    metric = IoUMetric(iou_metrics=kinds, prefix=prefix)
    metric.dataset_meta = dict(classes=('x', 'y'))
    data = dict(data=torch.tensor([[0, 1]]))
    metric.process({}, [dict(img_path='a.jpg', pred_sem_seg=data, gt_sem_seg=data)])
    assert sorted(reported_keys(metric)) == sorted(metric.evaluate(1))


def test_keys_of_coco_metrics(oracle_free_metric):
    assert reported_keys(oracle_free_metric(metric='bbox'))[0] == 'coco/bbox_mAP'
    items = reported_keys(
        oracle_free_metric(metric=['bbox', 'segm'], metric_items=['mAP_50'], prefix='p', classwise=True)
    )
    assert items == ['p/x_precision', 'p/bbox_mAP_50', 'p/segm_mAP_50']
    assert reported_keys(oracle_free_metric(metric=['proposal'], metric_items=['AR@100'])) == ['coco/AR@100']
    assert reported_keys(oracle_free_metric(metric='proposal_fast', proposal_nums=(10,))) == ['coco/AR@10']
    assert reported_keys(oracle_free_metric(format_only=True, outfile_prefix='o')) == []


@pytest.fixture
def oracle_free_metric():
    from mmdet.evaluation import CocoMetric

    def make(**options):
        metric = CocoMetric(**options)
        metric.dataset_meta = dict(classes=('x',))
        return metric

    return make
