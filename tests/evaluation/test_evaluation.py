"""The evaluation of the full-size configs: perfect predictions score 1, published oracles come out to the digit."""

import json
from collections import defaultdict

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from PIL import Image

from mmbackbones.engine.config import load_config
from mmbackbones.evaluation.average_precision import precision_by_name
from mmbackbones.evaluation.metrics import IoUMetric
from tests.conftest import ROOT

DETECTOR = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')
SEGMENTOR = str(ROOT / 'configs/mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')


def evaluator_and_dataset(path, **options):
    cfg = load_config(path, options)
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmdet':
        from mmdet.registry import DATASETS
    else:
        from mmseg.registry import DATASETS
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    return evaluator, dataset


def test_true_instances_score_one(realdata):
    root = f'{realdata}/coco_mini/'
    evaluator, dataset = evaluator_and_dataset(
        DETECTOR,
        **{
            'test_dataloader.dataset.data_root': root,
            'test_evaluator.ann_file': f'{root}annotations/instances_val2017.json',
        },
    )
    assert len(dataset) == 50
    for item in dataset:
        sample = item['data_samples']
        truth = sample.gt_instances
        sample.pred_instances = truth.new(
            bboxes=truth.bboxes.tensor,
            labels=truth.labels,
            scores=torch.ones(len(truth)),
            masks=torch.from_numpy(truth.masks.to_ndarray().astype(bool)),
        )
        evaluator.process([sample])
    metrics = evaluator.evaluate(len(dataset))
    assert metrics['coco/bbox_mAP'] == 1.0 and metrics['coco/segm_mAP'] == 1.0


def test_true_masks_score_one(realdata):
    evaluator, dataset = evaluator_and_dataset(
        SEGMENTOR, **{'test_dataloader.dataset.data_root': f'{realdata}/ade20k_mini/'}
    )
    assert len(dataset) == 5
    for item in dataset:
        sample = item['data_samples']
        label = sample.gt_sem_seg.data
        sample.pred_sem_seg = sample.gt_sem_seg.new(data=torch.where(label == 255, 0, label))
        evaluator.process([sample])
    assert evaluator.evaluate(len(dataset))['mIoU'] == 100.0


def test_coco_oracle(realdata):
    folder = realdata / 'eval_oracle' / 'coco_val2014_fake100_bbox'
    annotations = folder / 'instances_val2014_100.json'
    results = folder / 'instances_val2014_fakebbox100_results.json'
    expected = json.loads((folder / 'expected.json').read_text())

    from mmdet.evaluation import CocoMetric

    truth = json.loads(annotations.read_text())
    metric = CocoMetric(ann_file=str(annotations), metric='bbox')
    metric.dataset_meta = dict(classes=tuple(category['name'] for category in truth['categories']))
    label_of = {category['id']: label for label, category in enumerate(truth['categories'])}
    found = defaultdict(list)
    for result in json.loads(results.read_text()):
        found[result['image_id']].append(result)
    for image in truth['images']:
        boxes = np.array([result['bbox'] for result in found[image['id']]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x, y, w, h -> x1, y1, x2, y2
        labels = [label_of[result['category_id']] for result in found[image['id']]]
        metric.process(
            {},
            [
                dict(
                    img_id=image['id'],
                    ori_shape=(image['height'], image['width']),
                    pred_instances=dict(
                        bboxes=torch.from_numpy(boxes),
                        scores=torch.tensor([result['score'] for result in found[image['id']]]),
                        labels=torch.tensor(labels, dtype=torch.long),
                    ),
                )
            ],
        )
    metrics = metric.evaluate(len(truth['images']))
    names = dict(
        bbox_mAP='AP',
        bbox_mAP_50='AP50',
        bbox_mAP_75='AP75',
        bbox_mAP_s='AP_small',
        bbox_mAP_m='AP_medium',
        bbox_mAP_l='AP_large',
    )
    assert {name: metrics[f'coco/{ours}'] for ours, name in names.items()} == {
        name: expected['published_printed'][name] for name in names.values()
    }
    ap = precision_by_name(annotations, results, 'bbox')['all']
    assert ap == pytest.approx(expected['published_full_precision']['AP'], abs=1e-12)


def test_scene_parsing_oracle(realdata, tmp_path):
    folder = realdata / 'eval_oracle' / 'sceneparsing_sample'
    expected = json.loads((folder / 'expected.json').read_text())['recomputed']
    metric = IoUMetric(iou_metrics=['mIoU'], output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=tuple(str(index) for index in range(1, 151)))
    for path in sorted((folder / 'annotations').iterdir()):
        label, prediction = (
            np.array(Image.open(folder / kind / path.name)).astype(np.uint8) - 1  # 0 wraps to 255
            for kind in ('annotations', 'predictions')
        )
        metric.process(
            {},
            [
                dict(
                    img_path=path.name,
                    reduce_zero_label=True,
                    pred_sem_seg=dict(data=torch.from_numpy(prediction).long()[None]),
                    gt_sem_seg=dict(data=torch.from_numpy(label).long()[None]),
                )
            ],
        )
    metrics = metric.evaluate(3)
    assert metrics['mIoU'] == 100 * expected['mIoU_nan_ignored'] and metrics['aAcc'] == 100 * expected['pixel_accuracy']
    with np.load(tmp_path / 'areas.npz') as areas:
        intersect, union = areas['intersect'].sum(0), areas['union'].sum(0)
        assert areas['label'].sum() == expected['labelled_pixels']
    assert (intersect / np.maximum(union, 1)).mean() == pytest.approx(expected['mIoU_over_150_zero_for_absent'])
