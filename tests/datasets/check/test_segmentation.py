"""Each fault of an ADE20K data set gets a line that names file and cause."""

import numpy as np
import pytest

from mmbackbones.errors import InputError
from tests.datasets.check.cases import IMAGES, MASKS, PHOTO, PNG, cut, look, put, redraw, seg_cfg, with_label

pytestmark = pytest.mark.promise('data-check')
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


def test_empty_folder(data):
    for path in (data / 'ade20k' / IMAGES).iterdir():
        path.unlink()
    faults = look(seg_cfg(data / 'ade20k')).faults
    assert 'holds no *.jpg file' in str(faults[0])
    assert len(faults) == 4  # and three masks without image


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
