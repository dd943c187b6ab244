"""The data check: each fault gets a line that names file and cause, sound data passes, a second look is cached."""

import copy
import json
import os
import random
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from PIL import Image

from mmbackbones.datasets.check import check_config, check_dataset, data_fingerprint, inspect_config
from mmbackbones.datasets.check import coco as check_coco
from mmbackbones.datasets.check import run as check
from mmbackbones.datasets.check import segmentation as check_segmentation
from mmbackbones.datasets.shapes import ADE20K_METAINFO, COCO_METAINFO, write_shapes
from mmbackbones.engine.cli import run_command
from mmbackbones.errors import InputError

pytestmark = pytest.mark.promise('data-check')
ROOT = Path(__file__).resolve().parents[2]
ANN, PICTURES = 'annotations/instances_train2017.json', 'train2017'
IMAGES, MASKS = 'images/training', 'annotations/training'
PIPELINE = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]


@pytest.fixture(scope='session')
def sound(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('check') / 'data', train=3, val=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def data(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / 'data'))


def coco_cfg(folder: Path, **more) -> dict:
    return dict(
        dict(
            type='CocoDataset',
            data_root=str(folder),
            ann_file=ANN,
            data_prefix=dict(img=f'{PICTURES}/'),
            metainfo=COCO_METAINFO,
            pipeline=PIPELINE,
        ),
        **more,
    )


def seg_cfg(folder: Path, **more) -> dict:
    return dict(
        dict(
            type='BaseSegDataset',
            data_root=str(folder),
            reduce_zero_label=True,
            metainfo=ADE20K_METAINFO,
            data_prefix=dict(img_path=IMAGES, seg_map_path=MASKS),
        ),
        **more,
    )


def look(cfg: dict, **options):
    return check_dataset(cfg, default_scope='mmdet' if cfg['type'] == 'CocoDataset' else 'mmseg', **options)


def edit(change):
    """A fault of the annotation file, by a function of its content."""

    def spoil(folder: Path) -> str:
        content = json.loads((folder / ANN).read_text())
        change(content)
        (folder / ANN).write_text(json.dumps(content))
        return ANN

    return spoil


def put(name: str, data: bytes | None):
    """A fault of one file, by its new content; None removes it."""

    def spoil(folder: Path) -> str:
        path = folder / name
        if data is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            path.write_bytes(data)
        return name

    return spoil


def cut(name: str, keep: float):
    def spoil(folder: Path) -> str:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        return name

    return spoil


def redraw(name: str, change):
    def spoil(folder: Path) -> str:
        path = folder / name
        with Image.open(path) as image:
            changed = change(np.array(image))
        Image.fromarray(changed).save(path)
        return name

    return spoil


def annotation(index: int = 1, **values):
    return edit(lambda content: content['annotations'][index].update(values))


def crowd(**values):
    return edit(lambda content: content['annotations'][0]['segmentation'].update(values))


def image(**values):
    return edit(lambda content: content['images'][1].update(values))


def swap(items: list) -> None:
    items[0], items[1] = items[1], items[0]


JPEG = f'{PICTURES}/000000000002.jpg'
COCO_FAULTS = {
    'annotation file missing': (put(ANN, None), 'no such annotation file'),
    'annotation file empty': (put(ANN, b''), r'empty \(0 bytes\)'),
    'annotation file malformed': (put(ANN, b'{"images": [1, 2'), 'malformed JSON'),
    'annotation file truncated': (cut(ANN, 0.5), 'malformed JSON'),
    'annotation file not UTF-8': (put(ANN, b'\xff\xfe\x00'), 'malformed JSON'),
    'annotation file too deep': (put(ANN, b'[' * 100_000), 'malformed JSON'),
    'annotation file a list': (put(ANN, b'[]'), 'is a JSON object, not a list'),
    'image folder missing': (put(PICTURES, None), 'no such folder of images'),
    'no images': (edit(lambda content: content.update(images=[])), "'images' is empty"),
    'no annotations': (edit(lambda content: content.update(annotations=[])), "'annotations' is empty"),
    'annotations absent': (edit(lambda content: content.pop('annotations')), "'annotations' is missing"),
    'categories a dict': (edit(lambda content: content.update(categories={'a': 1})), "'categories' is not a list"),
    'category renamed': (
        edit(lambda content: content['categories'][0].update(name='cirlce')),
        r"1 of the data set's 3 classes: \['circle'\]; did you mean 'cirlce'\?",
    ),
    'categories in another order': (
        edit(lambda content: swap(content['categories'])),
        r"order \['square', 'circle', 'triangle'\].*wrong names",
    ),
    'category id twice': (edit(lambda content: content['categories'][0].update(id=2)), 'category id 2 occurs 2 times'),
    'category without name': (edit(lambda content: content['categories'][0].pop('name')), r'categories\[0\] needs'),
    'category unknown': (annotation(category_id=77), 'annotation 2: category_id 77 is not among'),
    'image unknown': (annotation(image_id=4711), 'annotation 2: image_id 4711 is not among'),
    'image id a list': (annotation(image_id=[1]), r'annotation 2: image_id \[1\] is not among'),
    'image id twice': (image(id=1), 'image id 1 occurs twice'),
    'image without name': (image(file_name=None), r'images\[1\]: "file_name" is None'),
    'image without height': (edit(lambda content: content['images'][1].pop('height')), r'images\[1\]: "height"'),
    'image no object': (edit(lambda content: content['images'].append(7)), r'images\[3\]: an object was expected'),
    'annotation id twice': (annotation(id=1), 'annotation 1: the id occurs twice'),
    'annotation no object': (edit(lambda content: content['annotations'].append(7)), r'annotations\[\d+\] needs an'),
    'box NaN': (annotation(bbox=[float('nan'), 1, 10, 10]), r'annotation 2: bbox \[nan, 1, 10, 10\] is not four'),
    'box infinite': (annotation(bbox=[1, 1, float('inf'), 10]), r'is not four finite'),
    'box of text': (annotation(bbox=['1', 1, 10, 10]), r'is not four finite'),
    'box of three': (annotation(bbox=[1, 1, 10]), r'is not four finite'),
    'box absent': (edit(lambda content: content['annotations'][1].pop('bbox')), r'bbox None is not four finite'),
    'box negative': (annotation(bbox=[50, 50, -10, 10]), r'bbox \[50, 50, -10, 10\] has a negative size'),
    'box outside': (annotation(bbox=[500, 500, 10, 10]), r'lies outside its image of \d+x\d+ px'),
    'area absent': (edit(lambda content: content['annotations'][1].pop('area')), 'area is None'),
    'area NaN': (annotation(area=float('nan')), 'area is nan'),
    'segmentation empty': (annotation(segmentation=[]), 'annotation 2: the segmentation is empty'),
    'polygon too short': (annotation(segmentation=[[1, 2, 3, 4]]), 'no polygon of three points'),
    'polygon NaN': (annotation(segmentation=[[1, 2, 3, 4, 5, float('nan')]]), 'is not a list of finite numbers'),
    'polygon of text': (annotation(segmentation=[['a'] * 6]), 'is not a list of finite numbers'),
    'polygon far away': (annotation(segmentation=[[1, 2, 3, 4, 5, 1e8]]), 'lies far outside'),
    'segmentation a number': (annotation(segmentation=7), 'polygons or RLE were expected'),
    'RLE of another size': (crowd(size=[7, 7]), r'RLE of size \[7, 7\]'),
    'RLE too short': (crowd(counts=[5, 5]), 'RLE counts add up to 10'),
    'RLE negative': (crowd(counts=[5, -5]), 'RLE counts are not whole numbers'),
    'RLE without counts': (crowd(counts=None), 'RLE counts are None'),
    'image missing': (put(JPEG, None), 'no such file'),
    'image empty': (put(JPEG, b''), r'empty \(0 bytes\)'),
    'image truncated': (cut(JPEG, 0.9), 'truncated: the end marker of a JPEG'),
    'image of text': (put(JPEG, b'<html>not found</html>'), 'not a readable image'),
    'image only a header': (cut(JPEG, 0.01), 'not a readable image'),
    'image of another size': (redraw(JPEG, lambda pixels: pixels[:-8]), r'is \d+x\d+ px, but .*json says \d+x\d+'),
}


@pytest.mark.parametrize('name', COCO_FAULTS)
def test_coco_fault(data, name):
    spoil, message = COCO_FAULTS[name]
    file = spoil(data / 'coco')
    report = look(coco_cfg(data / 'coco'))
    with pytest.raises(InputError, match=message) as caught:
        report.require_clean()
    assert str(caught.value).startswith(str(data / 'coco' / file)) and '\n' not in str(caught.value)


PNG = f'{MASKS}/ADE_train_00000002.png'
PHOTO = f'{IMAGES}/ADE_train_00000002.jpg'


def with_label(value: int):
    def change(labels: np.ndarray) -> np.ndarray:
        labels[:2, :3] = value
        return labels

    return change


SEG_FAULTS = {
    'image folder missing': (put(IMAGES, None), 'no such folder of images', IMAGES),
    'mask folder missing': (put(MASKS, None), 'no such folder of masks', MASKS),
    'mask missing': (put(PNG, None), r'missing: .*ADE_train_00000002.jpg has no mask', PNG),
    'mask empty': (put(PNG, b''), r'empty \(0 bytes\)', PNG),
    'mask truncated': (cut(PNG, 0.7), 'not a readable mask', PNG),
    'mask of text': (put(PNG, b'404'), 'not a readable mask', PNG),
    'mask of another size': (redraw(PNG, lambda labels: labels[:-8]), r'its image .*ADE_train_00000002.jpg', PNG),
    'mask in colours': (redraw(PNG, lambda labels: np.stack([labels] * 3, -1)), 'its mode is RGB', PNG),
    'label too high': (redraw(PNG, with_label(5)), r'label 5 \(6 pixels\) is outside 0 to 4 for the 4 classes', PNG),
    'label too high, 16 bit': (redraw(PNG, lambda labels: with_label(300)(labels.astype(np.uint16))), 'label 300', PNG),
    'image missing': (put(PHOTO, None), r'missing: .*ADE_train_00000002.png has no image', PHOTO),
    'image empty': (put(PHOTO, b''), r'empty \(0 bytes\)', PHOTO),
    'image truncated': (cut(PHOTO, 0.9), 'truncated: the end marker of a JPEG', PHOTO),
}


@pytest.mark.parametrize('name', SEG_FAULTS)
def test_segmentation_fault(data, name):
    spoil, message, file = SEG_FAULTS[name]
    spoil(data / 'ade20k')
    with pytest.raises(InputError, match=message) as caught:
        look(seg_cfg(data / 'ade20k')).require_clean()
    assert str(caught.value).startswith(str(data / 'ade20k' / file)) and '\n' not in str(caught.value)


def test_missing_data_folder_is_named(tmp_path):
    for cfg in (coco_cfg(tmp_path / 'data' / 'coco'), seg_cfg(tmp_path / 'data' / 'ade')):
        with pytest.raises(InputError, match=rf'no such .*; the folder {tmp_path}/data does not exist'):
            look(cfg).require_clean()


def test_empty_folder(data):
    for path in (data / 'ade20k' / IMAGES).iterdir():
        path.unlink()
    faults = look(seg_cfg(data / 'ade20k')).faults
    assert 'holds no *.jpg file' in str(faults[0])
    assert len(faults) == 4  # and three masks without image


def test_all_faults_at_once(data):
    spoils = ['category unknown', 'box outside', 'RLE too short', 'image truncated']
    for name in spoils:
        COCO_FAULTS[name][0](data / 'coco')
    report = look(coco_cfg(data / 'coco'))
    assert [fault.kind for fault in report.faults] == ['image', 'segmentation', 'unknown category', 'box']
    with pytest.raises(InputError, match=r'\(and 3 more faults, 2 files in all; tools/analysis/check_dataset.py'):
        report.require_clean()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (annotation(bbox=[5, 5, 10, 0]), 'smaller than a pixel'),
        (annotation(area=0), 'area is 0'),
        (annotation(bbox=[-40, 5, 80, 20]), 'reaches beyond'),
        (
            edit(lambda content: content['categories'].append(dict(id=4, name='star'))),
            r"no class of the data set.*'star'",
        ),
    ],
)
def test_what_the_framework_drops_is_a_warning(data, spoil, message):
    spoil(data / 'coco')
    report = look(coco_cfg(data / 'coco'))
    assert not report.faults and len(report.warnings) == 1
    assert message.split('.*')[0] in str(report.warnings[0])


def test_detection_alone_needs_no_masks(data):
    annotation(segmentation=[])(data / 'coco')
    boxes = [dict(type='LoadAnnotations', with_bbox=True)]
    assert not look(coco_cfg(data / 'coco', pipeline=boxes)).faults
    assert look(coco_cfg(data / 'coco')).faults


def test_test_set_without_annotations(data):
    edit(lambda content: content.pop('annotations'))(data / 'coco')
    report = look(coco_cfg(data / 'coco', test_mode=True))
    assert not report.faults and 'nothing can be scored' in str(report.warnings[0])


def test_full_decodes(data):
    annotation(segmentation=[[5.0, 5.0] * 4])(data / 'coco')
    name = JPEG.replace('.jpg', '.png')
    image(file_name=Path(name).name)(data / 'coco')
    with Image.open(data / 'coco' / JPEG) as picture:
        picture.save(data / 'coco' / name)
    spoilt = bytearray((data / 'coco' / name).read_bytes())
    spoilt[len(spoilt) // 2] ^= 0xFF
    (data / 'coco' / name).write_bytes(spoilt)
    plain, full = (look(coco_cfg(data / 'coco'), full=full) for full in (False, True))
    assert not plain.faults and not plain.warnings
    assert 'not a readable image' in str(full.faults[0]) and 'decodes to no pixel' in str(full.warnings[0])


def test_bytes_after_the_end_marker_are_harmless(data):
    for tail in (b'\0\0', b'trailing words'):
        with (data / 'coco' / JPEG).open('ab') as file:
            file.write(tail)
        assert not look(coco_cfg(data / 'coco')).faults


def test_exif_orientation_turns_the_size(data):
    import mmcv

    path = data / 'coco' / JPEG
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        width, height = picture.size
        picture.load()
    assert width != height
    picture.save(path, exif=exif)
    assert mmcv.imread(str(path)).shape[:2] == (width, height)
    assert 'is 144x160 px' in str(look(coco_cfg(data / 'coco')).faults[0])
    image(width=height, height=width)(data / 'coco')
    assert not look(coco_cfg(data / 'coco')).faults


def test_labels_without_reduced_zero(data):
    cfg = seg_cfg(data / 'ade20k', reduce_zero_label=False)
    assert 'label 4 ' in str(look(cfg).faults[0])
    redraw(PNG, with_label(255))(data / 'ade20k')
    assert not look(seg_cfg(data / 'ade20k')).faults


def test_subset_of_the_classes_keeps_the_labels_of_all(data):
    cfg = dict(type='ADE20KDataset', data_root=str(data / 'ade20k'), data_prefix=seg_cfg(data)['data_prefix'])
    redraw(PNG, with_label(150))(data / 'ade20k')
    assert not look(dict(cfg, metainfo=dict(classes=('wall', 'sky')))).faults
    redraw(PNG, with_label(151))(data / 'ade20k')
    assert 'label 151 (6 pixels) is outside 0 to 150 for the 150 classes' in str(look(cfg).faults[0])
    with pytest.raises(InputError, match=r'ADE20KDataset .*not a subset'):
        look(dict(cfg, metainfo=dict(classes=('circle',))))


def test_list_of_names(data):
    names = data / 'ade20k' / 'names.txt'
    names.write_text('ADE_train_00000001\nADE_train_00000009\n')
    report = look(seg_cfg(data / 'ade20k', ann_file='names.txt'))
    assert report.images == 2
    assert [fault.file[-22:] for fault in report.faults] == ['ADE_train_00000009.jpg', 'ADE_train_00000009.png']
    names.write_text('')
    cfg = seg_cfg(data / 'ade20k', ann_file='names.txt')
    assert 'names.txt: the list of names is empty' in str(look(cfg).faults[0])
    names.unlink()
    assert 'names.txt: no such list' in str(look(cfg).faults[0])


def test_shapes_are_clean(sound):
    for split, ade_split in (('train', 'training'), ('val', 'validation')):
        for report in (
            look(
                coco_cfg(
                    sound / 'coco',
                    ann_file=f'annotations/instances_{split}2017.json',
                    data_prefix=dict(img=f'{split}2017'),
                ),
                full=True,
            ),
            look(
                seg_cfg(
                    sound / 'ade20k',
                    data_prefix=dict(img_path=f'images/{ade_split}', seg_map_path=f'annotations/{ade_split}'),
                ),
                full=True,
            ),
        ):
            assert not report.faults and not report.warnings
            assert report.images == dict(train=3, val=2)[split] and len(report.fingerprint) == 16


REAL = {
    'coco': ('mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py', 'coco_mini', dict(train=48, val=50, test=50)),
    'ade20k': (
        'mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
        'ade20k_mini',
        dict(train=4, val=5, test=5),
    ),
}


@pytest.mark.parametrize('task', REAL)
def test_real_data_is_clean(realdata, task):
    config, folder, counts = REAL[task]
    cfg = Config.fromfile(ROOT / 'configs' / config)
    for split in counts:
        cfg[f'{split}_dataloader'].dataset.data_root = str(realdata / folder)
        if 'ann_file' in cfg.get(f'{split}_evaluator', {}):
            cfg[f'{split}_evaluator'].ann_file = str(realdata / folder / 'annotations/instances_val2017.json')
    reports = inspect_config(cfg, full=True)
    assert {split: report.images for split, (report,) in reports.items()} == counts
    assert not any(report.faults or report.warnings for (report,) in reports.values())


def test_cache(data, monkeypatch):
    cfg = coco_cfg(data / 'coco')
    first = look(cfg)
    assert not first.cached and look(cfg).cached
    assert look(cfg).fingerprint == data_fingerprint(cfg, default_scope='mmdet') == first.fingerprint
    assert not look(cfg, cache=False).cached
    assert not look(cfg, full=True).cached and look(cfg).cached and look(cfg, full=True).cached
    os.utime(data / 'coco' / JPEG, ns=(1, 1))
    assert not look(cfg).cached and look(cfg).cached
    monkeypatch.chdir(data)
    relative = coco_cfg(Path('coco'))
    assert not look(relative).cached and look(relative).cached


def test_faulty_results_are_not_cached(data):
    put(JPEG, b'')(data / 'coco')
    assert not look(coco_cfg(data / 'coco')).cached
    report = look(coco_cfg(data / 'coco'))
    assert not report.cached and report.faults


def test_damaged_or_unwritable_cache_does_no_harm(data, tmp_path, monkeypatch):
    cfg = seg_cfg(data / 'ade20k')
    look(cfg)
    (kept,) = (tmp_path / 'cache').rglob('*.json')
    strange = json.loads(kept.read_text())
    strange['report']['colour'] = 'red'
    for junk in ('', '[]', '{"stamp": 1}', '{', json.dumps(strange)):
        kept.write_text(junk)
        assert not look(cfg).cached
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert not look(cfg).cached and not look(cfg).cached


def test_fingerprint_follows_the_content_alone(data, tmp_path):
    elsewhere = Path(shutil.copytree(data, tmp_path / 'elsewhere'))
    for make, spoil in ((coco_cfg, annotation(area=5)), (seg_cfg, redraw(PNG, with_label(2)))):
        folder = 'coco' if make is coco_cfg else 'ade20k'
        before = look(make(data / folder)).fingerprint
        (elsewhere / folder / 'train2017').mkdir(exist_ok=True)
        (elsewhere / folder / 'train2017' / 'Thumbs.db').write_text('stray')
        assert look(make(elsewhere / folder)).fingerprint == before
        spoil(elsewhere / folder)
        assert look(make(elsewhere / folder)).fingerprint != before


def test_uncached_fingerprint_equals_the_one_of_the_check(data):
    for cfg, scope in ((coco_cfg(data / 'coco'), 'mmdet'), (seg_cfg(data / 'ade20k'), 'mmseg')):
        assert data_fingerprint(cfg, cache=False, default_scope=scope) == look(cfg).fingerprint != ''
    put(ANN, b'{')(data / 'coco')
    assert data_fingerprint(coco_cfg(data / 'coco'), default_scope='mmdet') == ''


def config(data: Path, **more) -> ConfigDict:
    train, val = (
        coco_cfg(data / 'coco'),
        coco_cfg(
            data / 'coco',
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            test_mode=True,
        ),
    )
    loader = dict(dataset=val)
    evaluator = dict(type='CocoMetric', ann_file=str(data / 'coco/annotations/instances_val2017.json'))
    return ConfigDict(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(dataset=train),
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=evaluator,
            test_evaluator=evaluator,
        )
        | more
    )


def test_config(data):
    found = check_config(config(data))
    assert list(found) == ['train', 'val', 'test'] and found['val'] == found['test'] != found['train']
    assert check_config(config(data, data_check=False)) == found
    assert check_config(config(data, data_check=False), ('test',)) == dict(test=found['test'])
    with pytest.raises(InputError, match='data_check=7: True, False, "full" or "drop"'):
        check_config(config(data, data_check=7))


def test_config_stops_at_faults(data, tmp_path):
    put(JPEG, b'')(data / 'coco')
    annotation(bbox=[0, 0, -1, 1])(data / 'coco')
    out = tmp_path / 'reports' / 'faults.json'
    with pytest.raises(InputError, match=rf'{JPEG}: .*\(and 1 more faults, 2 files in all; all of them are in {out}\)'):
        check_config(config(data), json_file=out)
    written = json.loads(out.read_text())
    assert [fault['kind'] for fault in written['train'][0]['faults']] == ['image', 'box']
    assert written['val'][0]['faults'] == []
    check_config(config(data), ('val', 'test'))
    check_config(config(data, data_check=False))


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


def test_wrapped_data_sets_are_found_and_checked_once(data, monkeypatch):
    looked = []
    for cls in (check_coco.CocoSpec, check_segmentation.SegmentationSpec):
        monkeypatch.setattr(cls, 'check', lambda self, full, inner=cls.check: looked.append(self) or inner(self, full))
    train = coco_cfg(data / 'coco')
    wrapped = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                train,
                dict(type='mmdet.MultiImageMixDataset', dataset=copy.deepcopy(train)),
                dict(seg_cfg(data / 'ade20k'), type='mmseg.BaseSegDataset'),
            ],
        ),
    )
    reports = inspect_config(config(data, train_dataloader=dict(dataset=wrapped)))
    assert [report.name for report in reports['train']] == [str(data / 'coco' / ANN)] * 2 + [
        str(data / 'ade20k' / IMAGES)
    ]
    assert len(looked) == 3
    assert len(check_config(config(data, train_dataloader=dict(dataset=wrapped)))['train']) == 16


def test_unknown_types_are_skipped(data, monkeypatch):
    notes = []
    monkeypatch.setattr(check, 'print_log', lambda message, **options: notes.append(message))
    remote = coco_cfg(data / 'coco', backend_args=dict(backend='petrel'))
    panoptic = dict(coco_cfg(data / 'coco'), type='CocoPanopticDataset')
    for cfg in (remote, panoptic, dict(type='LVISDataset'), dict(type='NobodysDataset')):
        assert check_config(config(data, train_dataloader=dict(dataset=cfg)), ('train',)) == dict(train='')
    assert [note.split('skipped, ')[1] for note in notes] == ['its files are not local'] + [
        'the check does not know this type'
    ] * 3


def test_data_set_that_the_framework_refuses(data):
    with pytest.raises(InputError, match=r'CocoDataset .*unexpected keyword argument .*data_rot'):
        check_config(config(data, train_dataloader=dict(dataset=coco_cfg(data / 'coco', data_rot=''))))
    with pytest.raises(InputError, match=r'CocoDataset .*ann_file is not set'):
        check_config(config(data, train_dataloader=dict(dataset=coco_cfg(data / 'coco', ann_file=''))))


def test_evaluator_with_another_annotation_file(data):
    other = str(data / 'coco' / ANN)
    with pytest.raises(InputError, match=rf'{other}: is val_evaluator.ann_file, but the val data set reads .*val2017'):
        check_config(config(data, val_evaluator=dict(type='CocoMetric', ann_file=other)))
    with pytest.raises(InputError, match=r'nowhere\.json: no such annotation file; it is test_evaluator.ann_file'):
        check_config(config(data, test_evaluator=[dict(type='CocoMetric', ann_file='nowhere.json')]))


def test_junk_in_annotations_never_crashes(data):
    random.seed(0)
    sound = json.loads((data / 'coco' / ANN).read_text())
    junk = [
        None,
        True,
        -1,
        0,
        1e308,
        float('nan'),
        10**30,
        '',
        '\ud800',
        'a\nb',
        '\0',
        'x' * 999,
        [],
        {},
        [[]],
        [{}],
        {'size': 1},
    ]

    def spoil(node) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = random.choice(list(keys))
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.85:
            spoil(node[key])
        else:
            node[key] = random.choice(junk)

    for _ in range(150):
        content = copy.deepcopy(sound)
        for _ in range(random.randint(1, 4)):
            spoil(content)
        (data / 'coco' / ANN).write_text(json.dumps(content))
        for fault in look(coco_cfg(data / 'coco'), full=True).faults:
            assert '\n' not in str(fault) and len(str(fault)) < 1500
            str(fault).encode()


def test_command(data, tmp_path, capsys, monkeypatch):
    main = runpy.run_path(str(ROOT / 'tools/analysis/check_dataset.py'))['main']
    file = tmp_path / 'config.py'
    file.write_text(f'model = dict(type="M")\ndata_check = True\n{Config(dict(config(data))).pretty_text}')
    run_command(main, [str(file)])
    assert 'train: ' in capsys.readouterr().out
    put(JPEG, b'')(data / 'coco')
    with pytest.raises(SystemExit) as stopped:
        run_command(main, [str(file), '--json', str(tmp_path / 'found.json'), '--full'])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert Path(JPEG).name in printed and '0 bytes' in printed
    assert json.loads((tmp_path / 'found.json').read_text())['train'][0]['full']
    for argv in ([str(tmp_path / 'nothing.py')], [str(file), '--cfg-options', 'train_dataloder.x=1'], []):
        with pytest.raises(SystemExit) as stopped:
            run_command(main, argv)
        assert stopped.value.code == 2
        assert 'error: ' in capsys.readouterr().err
