"""The fast AP of a resample is the AP that pycocotools gives when every drawn image is copied."""

import json

import numpy as np
import pytest

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import AREAS, average_precision, match_detections, precision_by_name
from mmbackbones.evaluation.bootstrap import draw_counts
from tests.evaluation.slow_evaluation import jittered, pycocotools_ap, slow_ap


def oracle_files(realdata):
    folder = realdata / 'eval_oracle' / 'coco_val2014_fake100_bbox'
    return folder / 'instances_val2014_100.json', folder / 'instances_val2014_fakebbox100_results.json'


@pytest.fixture(params=['oracle-bbox', 'miniature-bbox', 'miniature-segm'])
def case(request, realdata, tmp_path):
    """Annotations, predictions and IoU type: published fake boxes, and detections near the real miniature's objects."""
    name, iou_type = request.param.split('-')
    if name == 'oracle':
        return *oracle_files(realdata), iou_type
    annotations = realdata / 'coco_mini' / 'annotations' / 'instances_val2017.json'
    truth = json.loads(annotations.read_text())
    assert any(annotation['iscrowd'] for annotation in truth['annotations'])
    results = jittered(truth, seed=0, skill=0.8)
    if iou_type == 'bbox':
        for result in results:
            del result['segmentation']
    (tmp_path / 'results.json').write_text(json.dumps(results))
    return annotations, tmp_path / 'results.json', iou_type


def test_equals_the_evaluator(case):
    annotations, results, iou_type = case
    ours = average_precision(match_detections(*case)['all'], np.ones((1, len(image_ids(annotations))), int))
    assert ours.mean() == pytest.approx(pycocotools_ap(annotations, results, iou_type)['all'], abs=1e-9)
    assert 0.1 < ours.mean() < 0.9
    assert precision_by_name(*case) == pytest.approx(pycocotools_ap(*case), abs=1e-9, nan_ok=True)


def test_equals_pycocotools_on_copies(case, tmp_path):
    annotations, results, iou_type = case
    detections = json.loads(results.read_text())
    for number, detection in enumerate(detections):  # copies of equally scored detections would come interleaved
        detection['score'] -= 1e-9 * number
    results = tmp_path / 'distinct.json'
    results.write_text(json.dumps(detections))
    counts = draw_counts(len(image_ids(annotations)), 100, seed=1)[1:4]
    assert counts.max() >= 3 and counts.min() == 0
    matches = match_detections(annotations, results, iou_type, tuple(AREAS))
    truth = json.loads(annotations.read_text())
    for area in AREAS:
        ours = average_precision(matches[area], counts).mean(1)
        slow = [slow_ap(truth, detections, iou_type, row, area) for row in counts[: 3 if area == 'all' else 1]]
        assert ours[: len(slow)] == pytest.approx(slow, abs=1e-9), area


def test_some_classes_only(realdata):
    annotations, results = oracle_files(realdata)
    everything = json.loads(annotations.read_text())
    matches = match_detections(annotations, results, 'bbox', class_names=('person', 'car'))['all']
    ours = average_precision(matches, np.ones((1, len(everything['images'])), int)).mean()
    by_class = pycocotools_ap(annotations, results, 'bbox')
    assert ours == pytest.approx((by_class['person'] + by_class['car']) / 2, abs=1e-9)


def test_nothing_detected_and_nothing_to_detect(realdata, tmp_path):
    annotations, _ = oracle_files(realdata)
    (tmp_path / 'none.json').write_text('[]')
    matches = match_detections(annotations, tmp_path / 'none.json', 'bbox')['all']
    counts = np.zeros((2, len(matches.image_ids)), int)
    counts[0] = 1
    scores = average_precision(matches, counts).mean(1)
    assert scores[0] == 0 and np.isnan(scores[1])
    assert precision_by_name(annotations, tmp_path / 'none.json', 'bbox')['all'] == 0


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'No such file'),
        ('[{"image_id": 1, "category', 'no readable predictions'),
        ('[{"image_id": 999999999, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', 'such as 999999999'),
    ],
)
def test_bad_predictions(realdata, tmp_path, text, message):
    if text is not None:
        (tmp_path / 'results.json').write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        match_detections(oracle_files(realdata)[0], tmp_path / 'results.json', 'bbox')
    assert 'results.json' in str(caught.value) and '\n' not in str(caught.value)


def test_bad_annotations(realdata, tmp_path):
    (tmp_path / 'truth.json').write_text('{"images": []}')
    with pytest.raises(InputError, match=r'truth\.json: no readable COCO annotation file'):
        match_detections(tmp_path / 'truth.json', oracle_files(realdata)[1], 'bbox')


def image_ids(annotations):
    return [image['id'] for image in json.loads(annotations.read_text())['images']]
