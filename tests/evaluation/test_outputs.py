"""Results appear whole or not at all, and nothing is clobbered."""

import json

import numpy as np
import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.evaluation.metrics import IoUMetric
from mmbackbones.evaluation.outputs import RECORD, OutputFolder, plain


def test_folder_appears_on_commit_only(tmp_path):
    folder = OutputFolder(tmp_path / 'out')
    (folder.partial / 'predictions.bbox.json').write_text('[]')
    assert not (tmp_path / 'out').exists()
    folder.commit(dict(metrics=plain({'mIoU': np.float64(7.5)})))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out']
    assert json.loads((tmp_path / 'out' / RECORD).read_text()) == {'metrics': {'mIoU': 7.5}}


def test_existing_results_are_kept(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('precious')
    with pytest.raises(InputError, match=r'--out .*out: exists and is not empty'):
        OutputFolder(tmp_path / 'out')
    assert (tmp_path / 'out' / 'mine').read_text() == 'precious'


def test_replacing_keeps_the_old_until_the_new_is_whole(tmp_path):
    OutputFolder(tmp_path / 'out').commit(dict(run=1))
    folder = OutputFolder(tmp_path / 'out', replace=True)
    assert json.loads((tmp_path / 'out' / RECORD).read_text()) == {'run': 1}
    folder.commit(dict(run=2))
    assert json.loads((tmp_path / 'out' / RECORD).read_text()) == {'run': 2}
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def sample(stem, prediction, label):
    return dict(
        img_path=f'images/{stem}.jpg',
        reduce_zero_label=True,
        pred_sem_seg=dict(data=torch.tensor([prediction])),
        gt_sem_seg=dict(data=torch.tensor([label])),
    )


def test_iou_metric_keeps_areas_of_every_image(tmp_path):
    samples = [sample('a', [[0, 1], [1, 1]], [[0, 1], [0, 255]]), sample('b', [[1, 1]], [[1, 1]])]
    scores = []
    for output_dir in (None, str(tmp_path)):
        metric = IoUMetric(iou_metrics=['mIoU'], output_dir=output_dir)
        metric.dataset_meta = dict(classes=('x', 'y'))
        metric.process({}, samples)
        scores.append(metric.evaluate(2))
    assert scores[0] == scores[1]
    # pixels by hand: x 1 of 2, y 1 + 2 of 2 + 2, over both images
    assert scores[0]['mIoU'] == pytest.approx(100 * (1 / 2 + 3 / 4) / 2, abs=0.01)
    with np.load(tmp_path / 'areas.npz') as areas:  # allow_pickle is off
        assert areas['image_ids'].tolist() == ['a', 'b']
        assert areas['intersect'].tolist() == [[1, 1], [0, 2]]
        assert areas['union'].tolist() == [[2, 2], [0, 2]]
    assert sorted(path.name for path in (tmp_path / 'masks').iterdir()) == ['a.png', 'b.png']
