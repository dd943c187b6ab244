"""Results appear whole or not at all, and nothing is clobbered."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmbackbones.errors import InputError
from mmbackbones.evaluation.metrics import IoUMetric
from mmbackbones.evaluation.outputs import (
    RECORD,
    OutputFolder,
    dense_task_of,
    left_out,
    name_images,
    names_of_images,
    plain,
    task_of,
)


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


def test_what_a_refused_run_left_is_gone(tmp_path):
    folder = OutputFolder(tmp_path / 'out')
    (folder.partial / 'masks').mkdir()
    folder.discard()
    assert not any(tmp_path.iterdir())


def test_replacing_keeps_the_old_until_the_new_is_whole(tmp_path):
    OutputFolder(tmp_path / 'out').commit(dict(run=1))
    folder = OutputFolder(tmp_path / 'out', replace=True)
    assert json.loads((tmp_path / 'out' / RECORD).read_text()) == {'run': 1}
    folder.commit(dict(run=2))
    assert json.loads((tmp_path / 'out' / RECORD).read_text()) == {'run': 2}
    assert [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize(
    ('metrics', 'numbers', 'others'),
    [
        ({'a': np.float32(0.5), 'b': 1, 'c': torch.tensor([2.0]), 'd': np.array(3)}, dict(a=0.5, b=1, c=2, d=3), []),
        (
            {'mIoU': float('nan'), 'aAcc': None, 'per_class': np.ones(2), 'name': 'x', 'm': 1.0},
            dict(m=1),
            ['aAcc', 'mIoU', 'name', 'per_class'],
        ),
        ({'citys': {'all': 0.5, 'road': {'iou': 1}}}, {'citys/all': 0.5, 'citys/road/iou': 1}, []),
        ({}, {}, []),
    ],
)
def test_what_is_no_number_is_named(metrics, numbers, others):
    assert plain(metrics) == numbers and left_out(metrics) == others
    assert json.loads(json.dumps(plain(metrics), allow_nan=False)) == numbers


@pytest.mark.parametrize(
    ('model', 'scope', 'task'),
    [
        (dict(type='RetinaNet', bbox_head={}), 'mmdet', 'detection'),
        (dict(type='DETR'), 'mmdet', 'detection'),
        (dict(type='mmseg.EncoderDecoder'), 'mmdet', 'segmentation'),
        (dict(type='CascadeEncoderDecoder', decode_head=[{}, {}]), 'mmseg', 'segmentation'),
        (dict(type='SegTTAModel', module=dict(type='EncoderDecoder')), 'mmseg', 'segmentation'),
        (dict(type='Own', decode_head={}), None, 'segmentation'),
        (dict(type='Own', mask_head={}), None, 'detection'),
        (dict(type='ImageClassifier', head={}), 'mmpretrain', 'classification'),
    ],
)
def test_task_of_any_head(model, scope, task):
    assert task_of(Config(dict(model=model, default_scope=scope))) == task


def test_another_model_has_no_task():
    with pytest.raises(
        InputError, match=r'model\.type=Blip: no detector of mmdet, segmentor of mmseg or classifier of'
    ):
        task_of(Config(dict(model=dict(type='Blip', head={}), default_scope='mmagic')))


def test_what_reads_maps_refuses_a_classifier():
    cfg = Config(dict(model=dict(type='ImageClassifier', head={}), default_scope='mmpretrain'))
    with pytest.raises(InputError, match='a classifier; expected a detector or a segmentor'):
        dense_task_of(cfg)


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['d/a.jpg', 'd/b.jpg'], ['a', 'b']),
        (['d/x/a.jpg', 'd/y/b.jpg'], ['a', 'b']),  # as flat folders are named, and as records of today have it
        (['d/x/0.jpg', 'd/y/0.jpg'], ['x/0', 'y/0']),
        (['d/0.jpg', 'd/y/0.jpg'], ['0', 'y/0']),
        (['d/0.jpg', 'd/0.png'], ['0.jpg', '0.png']),
        (['d/0.jpg', 'd/0.jpg'], ['0']),
    ],
)
def test_every_image_has_a_name_of_its_own(paths, names):
    assert list(names_of_images(paths).values()) == names


def test_equal_file_names_of_two_folders_keep_both_masks(tmp_path):
    metric = IoUMetric(output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=('x', 'y'))
    samples = [sample('0', [[place]], [[0]], f'images/clip{place}') for place in (0, 1)]
    name_images([metric], Infos(samples))
    metric.process({}, samples)
    metric.evaluate(2)
    with np.load(tmp_path / 'areas.npz') as areas:
        assert areas['image_ids'].tolist() == ['clip0/0', 'clip1/0']
    assert [np.array(Image.open(tmp_path / f'masks/clip{place}/0.png')).item() for place in (0, 1)] == [1, 2]


def test_format_only_keeps_masks_without_labels(tmp_path):
    metric = IoUMetric(format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=tuple(map(str, range(300))))
    metric.process({}, [{key: value for key, value in sample('a', [[299]], [[0]]).items() if key != 'gt_sem_seg'}])
    assert metric.evaluate(1) == {}
    assert np.array(Image.open(tmp_path / 'masks/a.png')).tolist() == [[300]]  # more than 8 bits hold
    assert [path.name for path in tmp_path.iterdir()] == ['masks']


@pytest.mark.parametrize(
    ('scope', 'kind', 'kept'),
    [
        ('mmseg', 'IoUMetric', dict(type='mmbackbones.IoUMetric', output_dir='')),
        ('mmdet', 'mmseg.IoUMetric', dict(type='mmbackbones.IoUMetric', output_dir='')),
        ('mmseg', 'mmbackbones.IoUMetric', dict(type='mmbackbones.IoUMetric', output_dir='')),
        ('mmdet', 'CocoMetric', dict(type='CocoMetric', outfile_prefix='/predictions')),
        ('mmdet', 'LVISMetric', dict(type='LVISMetric', outfile_prefix='/predictions')),
        ('mmdet', 'VOCMetric', dict(type='VOCMetric')),
    ],
)
def test_every_metric_that_can_keeps_predictions_in_the_folder(scope, kind, kept, tmp_path):
    folder, metric = OutputFolder(tmp_path / 'out'), dict(type=kind)
    assert folder.attach([metric], scope) == []
    places = {key: str(folder.partial) + end for key, end in kept.items() if key != 'type'}
    assert metric == {**kept, **places}
    if len(kept) > 1:
        (folder.partial / 'some.json').write_text('[]')
    folder.commit({})
    expected = 'predictions and record in' if len(kept) > 1 else 'without predictions: VOCMetric keeps none there'
    assert expected in folder.summary()


def test_a_place_in_the_config_is_not_left_in_silence(tmp_path):
    folder = OutputFolder(tmp_path / 'out')
    (sentence,) = folder.attach(dict(type='mmdet.CocoMetric', outfile_prefix='mine/x'), 'mmdet')
    assert 'outfile_prefix=mine/x' in sentence and str(folder.path) in sentence


class Infos(list):
    get_data_info = list.__getitem__


def sample(stem, prediction, label, folder='images'):
    return dict(
        img_path=f'{folder}/{stem}.jpg',
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
