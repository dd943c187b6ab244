"""Evaluators that would fail at the first validation, or after the training, end the run before it."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric as SegIoUMetric
from mmseg.structures import SegDataSample
from torch import nn

from mmbackbones.engine.preflight import evaluators
from mmbackbones.errors import InputError
from mmbackbones.evaluation.metrics import IoUMetric


class Items(list):
    metainfo = dict(classes=('a', 'b'))

    def get_data_info(self, index):
        return dict(seg_map_path='a.png') if 'labels' in self[index] else {}

    def __getitem__(self, index):
        item = super().__getitem__(index)
        if isinstance(item, Exception):
            raise item
        return item


def seg_items(label=(4, 4), image=(4, 4), labels=True):
    sample = SegDataSample(metainfo=dict(ori_shape=image))
    if label:
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *label))
    return Items([dict(data_samples=sample, **(dict(labels=True) if labels else {}))])


def det_items(*without, **more):
    meta = dict(img_id=1, ori_shape=(4, 4), img_shape=(4, 4), scale_factor=(1, 1), **more)
    sample = DetDataSample(metainfo={key: value for key, value in meta.items() if key not in without})
    return Items([dict(data_samples=sample)])


def coco(**options):
    metric = CocoMetric(**options)
    metric._coco_api = object()  # as an annotation file gives it
    return metric


@pytest.mark.parametrize(
    ('metrics', 'items', 'message'),
    [
        (
            [IoUMetric(iou_metrics=['mIoU', 'mFoo'])],
            seg_items(),
            r"iou_metrics: 'mFoo' is not known; known: mIoU, mDice",
        ),
        ([SegIoUMetric(iou_metrics='mFoo')], seg_items(), r"iou_metrics: 'mFoo' is not known"),
        ([coco(metric_items=['mAP_5'])], det_items(), r"metric_items: 'mAP_5' is not known"),
        (
            [IoUMetric(), SegIoUMetric(iou_metrics=['mDice'])],
            seg_items(),
            r'both report aAcc; give one of them a prefix',
        ),
        ([coco(metric='bbox'), coco(metric=['bbox'])], det_items(), r'both report coco/bbox_mAP'),
        ([SegIoUMetric(format_only=True)], seg_items(), r'format_only=True: predictions have no place; give --out DIR'),
        ([coco(metric=['bbox', 'segm'])], det_items(), r"'segm' needs masks, but Sequential has no mask head"),
        ([IoUMetric()], seg_items(labels=False), r'has no label masks .*format_only=True keeps predictions'),
        ([IoUMetric()], seg_items(label=None), r'has no LoadAnnotations'),
        (
            [IoUMetric()],
            seg_items(image=(8, 6)),
            r'labels are 4x4 px, .* size of the image, 6x8; LoadAnnotations belongs',
        ),
        ([coco()], det_items('scale_factor'), r"samples have no scale_factor, .*a Resize step and 'scale_factor' in"),
        ([coco()], det_items('img_id'), r'samples have no img_id'),
        ([CocoMetric()], det_items(), r'ann_file: not set, and samples hold no ground truth'),
        ([coco()], Items([KeyError('bboxes')]), r'the first image cannot be prepared: KeyError: .bboxes.'),
    ],
)
def test_evaluators_that_cannot_work(metrics, items, message):
    for metric in metrics:
        metric.dataset_meta = items.metainfo
    with pytest.raises(InputError, match=rf'^test_(evaluator|dataloader).*{message}'):
        evaluators._require_metrics('test', metrics, items, nn.Sequential(nn.Identity()))


@pytest.mark.parametrize(
    ('metrics', 'items'),
    [
        ([IoUMetric(iou_metrics=['mIoU', 'mDice']), SegIoUMetric(prefix='second')], seg_items()),
        ([IoUMetric(format_only=True, output_dir='out')], seg_items(label=None, labels=False)),
        ([coco(metric='bbox'), coco(metric='segm')], det_items()),
        ([CocoMetric()], det_items(instances=[])),
    ],
)
def test_evaluators_that_work(metrics, items):
    for metric in metrics:
        metric.dataset_meta = items.metainfo
    state = torch.get_rng_state()
    evaluators._require_metrics('test', metrics, items, nn.ModuleDict(dict(mask_head=nn.Identity())))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (
            CheckpointHook(save_best='mDice'),
            "^save_best='mDice': val_evaluator does not report .* it reports aAcc, mIoU",
        ),
        (EarlyStoppingHook(monitor='coco/bbox_mAP'), "^EarlyStoppingHook.monitor='coco/bbox_mAP': "),
        (CheckpointHook(save_best='mIoU'), None),
        (CheckpointHook(save_best='auto'), None),
    ],
)
def test_monitored_metrics_are_reported(hook, message):
    if message is None:
        evaluators._require_monitored([IoUMetric()], [hook])
        return
    with pytest.raises(InputError, match=message):
        evaluators._require_monitored([IoUMetric()], [hook])


@pytest.mark.parametrize('error', [AssertionError('outfile_prefix must be given'), KeyError('metric should be one of')])
def test_what_a_constructor_refuses_is_one_line(error):
    def build(evaluator):
        raise error

    with pytest.raises(InputError, match=rf'^val_evaluator: {error.args[0]}$'):
        evaluators._build_evaluator(SimpleNamespace(_val_evaluator={}, build_evaluator=build), 'val')
