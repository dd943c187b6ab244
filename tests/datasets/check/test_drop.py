"""What cannot be used is left out of the training."""

import json
from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from mmbackbones.datasets.check import check_config
from mmbackbones.errors import InputError
from tests.datasets.check.cases import (
    ANN,
    IMAGES,
    JPEG,
    MASKS,
    PNG,
    annotation,
    config,
    edit,
    put,
    seg_cfg,
)

pytestmark = pytest.mark.promise('data-check')


@pytest.mark.promise('data-drop')
def test_drop_leaves_the_faulty_out(data, tmp_path):
    """Two passes: with the image of size 0 go its annotations, which then have no image."""
    from mmdet.datasets import CocoDataset

    before = json.loads((data / 'coco' / ANN).read_text())
    of_image = [item['id'] for item in before['annotations'] if item['image_id'] == 2]
    put(JPEG, b'')(data / 'coco')
    others = [i for i, item in enumerate(before['annotations']) if item['image_id'] != 2][:3]
    annotation(others[0], category_id=77)(data / 'coco')
    annotation(others[1], bbox=[float('nan'), 1, 10, 10])(data / 'coco')
    spoilt = (data / 'coco' / ANN).read_bytes()
    cfg = config(data, data_check='drop')
    wrapped = cfg.train_dataloader = ConfigDict(
        dataset=dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    )
    check_config(cfg, drop_dir=tmp_path / 'work')

    leaf = wrapped.dataset.dataset
    lost = {*of_image, *(before['annotations'][i]['id'] for i in others[:2])}
    kept = json.loads(Path(leaf.ann_file).read_text())
    assert [item['id'] for item in kept['annotations']] == [
        item['id'] for item in before['annotations'] if item['id'] not in lost
    ]
    assert [item['id'] for item in kept['images']] == [1, 3] and kept['categories'] == before['categories']
    dataset = CocoDataset(**{key: value for key, value in leaf.items() if key not in ('type', 'pipeline')})
    assert len(dataset) == 2 and sum(len(dataset.get_data_info(i)['instances']) for i in range(2)) == len(
        kept['annotations']
    )
    (listed,) = json.loads((tmp_path / 'work/data_dropped.json').read_text()).values()
    assert listed['counts'] == dict(annotations=len(lost), images=1) and len(listed['dropped']) == len(lost) + 1
    assert (data / 'coco' / ANN).read_bytes() == spoilt


@pytest.mark.promise('data-drop')
def test_drop_of_masks(data, tmp_path):
    put(PNG, b'404')(data / 'ade20k')
    put(f'{IMAGES}/ADE_train_00000003.jpg', None)(data / 'ade20k')
    dataset = dict(seg_cfg(data / 'ade20k'))
    cfg = ConfigDict(default_scope='mmseg', data_check='drop', train_dataloader=dict(dataset=dataset))
    check_config(cfg, ('train',), drop_dir=tmp_path)
    assert Path(cfg.train_dataloader.dataset.ann_file).read_text() == 'ADE_train_00000001\n'
    from mmseg.datasets import BaseSegDataset

    kept = {key: value for key, value in cfg.train_dataloader.dataset.items() if key != 'type'}
    assert len(BaseSegDataset(**kept, pipeline=[])) == 1


@pytest.mark.promise('data-drop')
def test_drop_still_names_what_has_another_suffix(data, tmp_path, warned):
    put(PNG, b'404')(data / 'ade20k')
    for kind, suffix in ((IMAGES, 'jpg'), (MASKS, 'png')):
        file = data / 'ade20k' / kind / f'ADE_train_00000003.{suffix}'
        file.rename(file.with_suffix(file.suffix.upper()))
    dataset = dict(seg_cfg(data / 'ade20k'))
    check_config(
        ConfigDict(default_scope='mmseg', data_check='drop', train_dataloader=dict(dataset=dataset)),
        ('train',),
        drop_dir=tmp_path,
    )
    assert ['.JPG: the image is left out' in line for line in warned] == [True, False]
    assert '.PNG: the mask is left out' in warned[1]


@pytest.mark.promise('data-drop')
def test_drop_mends_a_list_with_blank_lines(data, tmp_path):
    (data / 'ade20k/names.txt').write_text('ADE_train_00000001\n\nADE_train_00000002\n')
    dataset = dict(seg_cfg(data / 'ade20k', ann_file='names.txt'))
    cfg = ConfigDict(default_scope='mmseg', data_check='drop', train_dataloader=dict(dataset=dataset))
    check_config(cfg, ('train',), drop_dir=tmp_path)
    kept = Path(cfg.train_dataloader.dataset.ann_file).read_text()
    assert kept == 'ADE_train_00000001\nADE_train_00000002\n'


@pytest.mark.promise('data-drop')
def test_what_drop_does_not_mend_stops_the_run(data, tmp_path):
    edit(lambda content: content['categories'][0].update(name='cirlce'))(data / 'coco')
    annotation(category_id=77)(data / 'coco')
    with pytest.raises(InputError, match=r"'circle'.*and 1 more faults"):
        check_config(config(data, data_check='drop'), drop_dir=tmp_path)
    put('val2017/000000000001.jpg', b'')(data / 'coco')
    with pytest.raises(InputError, match=r'val2017/000000000001.jpg: the file is empty'):
        check_config(config(data, data_check='drop'), ('val',), drop_dir=tmp_path)
    edit(lambda content: [item.update(category_id=77) for item in content['annotations']])(data / 'coco')
    edit(lambda content: content['categories'][0].update(name='circle'))(data / 'coco')
    with pytest.raises(InputError, match="'annotations' is empty"):
        check_config(config(data, data_check='drop'), ('train',), drop_dir=tmp_path)
    with pytest.raises(InputError, match='data_check="drop": for trainings only'):
        check_config(config(data, data_check='drop'))
