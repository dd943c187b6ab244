"""The labels of a segmentation configuration against its pipelines, heads and metrics, at every run."""

import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import ConfigDict
from PIL import Image

from mmbackbones.datasets.check import check_config
from mmbackbones.errors import InputError

pytestmark = pytest.mark.promise('data-check')
UPER = dict(type='UPerHead', num_classes=3)
FCN = dict(type='FCNHead', num_classes=3)
SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True)


def settings(
    folder: Path, values=(0, 1, 2), images: int = 3, classes=('ground', 'disc', 'box'), model=None
) -> ConfigDict:
    """A configuration with training and test data whose masks hold all these labels."""
    for split in ('train', 'val'):
        for number in range(images):
            for kind, suffix in (('img', 'jpg'), ('ann', 'png')):
                path = folder / kind / split / f'{number}.{suffix}'
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.resize(np.array(values, dtype=np.uint8), (8, 12))
                Image.fromarray(pixels if kind == 'ann' else np.stack([pixels] * 3, -1)).save(path)

    def loader(split: str) -> dict:
        return dict(
            dataset=dict(
                type='BaseSegDataset',
                data_root=str(folder),
                metainfo=dict(classes=classes),
                data_prefix=dict(img_path=f'img/{split}', seg_map_path=f'ann/{split}'),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
            )
        )

    return ConfigDict(
        default_scope='mmseg',
        model=model or dict(decode_head=UPER, auxiliary_head=[FCN]),
        train_dataloader=loader('train'),
        val_dataloader=loader('val'),
        test_dataloader=loader('val'),
        val_evaluator=dict(type='IoUMetric'),
        test_evaluator=[dict(type='mmbackbones.IoUMetric')],
    )


def put(**values):
    """A change of keys; `__` stands for a dot, and `data` for the data set of a split."""

    def change(cfg: ConfigDict) -> None:
        for key, value in values.items():
            *path, last = key.replace('data__', 'dataloader__dataset__').split('__')
            node = cfg
            for name in path:
                node = node[int(name) if name.isdigit() else name]
            node[last] = value

    return change


def one_class(**head):
    return dict(values=(0,), classes=('object',), model=dict(decode_head=dict(UPER, **head)))


# Settings, change of the configuration, splits, expected: 'fault' or 'warning' and words, or None for neither.
CASES = {
    'sound': (dict(), put(), 'train val test', None),
    'two classes, 0 and 1': (dict(values=(0, 1), classes=('ground', 'object')), put(), 'train test', None),
    'masks of 0 and 255': (
        dict(values=(0, 255), classes=('ground', 'object')),
        put(),
        'train',
        (
            'fault',
            r'ann/train: only the class "ground" occurs .* not: "object"; .* labels 0, 255, of which 255 is ignored',
        ),
    ),
    'masks of 0 and 255 in a test': (
        dict(values=(0, 255), classes=('ground', 'object')),
        put(),
        'test',
        ('warning', r'ann/val: only the class "ground" .* can be scored; not: "object"'),
    ),
    'masks of 0 and 255, 0 is ignored': (
        dict(values=(0, 255), classes=('object', 'other')),
        put(train_data__reduce_zero_label=True),
        'train',
        ('fault', r'no mask holds a class: nothing can be learnt'),
    ),
    'class that does not occur': (
        dict(values=(0, 2)),
        put(),
        'train',
        ('warning', r'ann/train: 1 of 3 classes occur in no mask and cannot be learnt: "disc"; .* labels 0, 2'),
    ),
    'class that does not occur in a test': (
        dict(values=(0, 2)),
        put(),
        'test',
        ('warning', r'ann/val: 1 of 3 classes occur in no mask and cannot be scored: "disc"'),
    ),
    'class that does not occur in a sample': (dict(values=(0, 2), images=2), put(), 'train test', None),
    'only ignored pixels': (dict(values=(255,)), put(), 'train', ('fault', r'no mask holds a class')),
    'only ignored pixels in a test': (dict(values=(255,)), put(), 'test', ('warning', r'no mask holds a class')),
    'reduce_zero_label hides a class': (
        dict(),
        put(train_data__reduce_zero_label=True),
        'train',
        (
            'warning',
            r'no mask .* "box"; .*reduce_zero_label=True ignores the label 0 \(33% of the pixels\): is it a class',
        ),
    ),
    'reduce_zero_label is missing': (
        dict(values=(0, 1, 2, 3)),
        put(),
        'train',
        ('fault', r'ann/train/0.png: label 3 .*outside 0 to 2 for the 3 classes with reduce_zero_label=False'),
    ),
    'reduce_zero_label of the pipeline alone': (
        dict(),
        put(train_data__pipeline__1__reduce_zero_label=True),
        'train',
        (
            'fault',
            r'^train_dataloader.dataset: pipeline\[1\].reduce_zero_label=True .*reduce_zero_label=False for',
        ),
    ),
    'reduce_zero_label of the data set alone': (
        dict(values=(0, 1, 2, 3)),
        put(test_data__reduce_zero_label=True, test_data__pipeline__1__reduce_zero_label=False),
        'test',
        ('fault', r'^test_dataloader.dataset: pipeline\[1\].reduce_zero_label=False .*reduce_zero_label=True for'),
    ),
    'reduce_zero_label within test-time augmentation': (
        dict(),
        put(
            test_data__pipeline=[
                dict(
                    type='TestTimeAug',
                    transforms=[[dict(type='Resize')], [dict(type='LoadAnnotations', reduce_zero_label=True)]],
                )
            ]
        ),
        'test',
        ('fault', r'pipeline\[0\].transforms\[1\]\[0\].reduce_zero_label=True'),
    ),
    'reduce_zero_label in both': (
        dict(values=(0, 1, 2, 3)),
        put(train_data__reduce_zero_label=True, train_data__pipeline__1__reduce_zero_label=True),
        'train',
        None,
    ),
    'reduce_zero_label of the training alone': (
        dict(),
        put(train_data__reduce_zero_label=True),
        'train test',
        ('fault', r'test_dataloader.dataset: reduce_zero_label=False, but reduce_zero_label=True for train_dataloader'),
    ),
    'one class and softmax': (
        one_class(num_classes=1),
        put(),
        'train',
        ('fault', r'model.decode_head.num_classes=1: softmax .* nothing is learnt'),
    ),
    'one class and softmax in a list of heads': (
        dict(model=dict(decode_head=[UPER, dict(FCN, num_classes=1)])),
        put(),
        'train',
        ('fault', r'model.decode_head\[1\].num_classes=1: softmax'),
    ),
    'one class and softmax in an auxiliary head': (
        dict(
            model=dict(
                decode_head=UPER,
                auxiliary_head=dict(FCN, num_classes=1, loss_decode=[SIGMOID, dict(type='mmseg.CrossEntropyLoss')]),
            )
        ),
        put(),
        'train',
        ('fault', r'model.auxiliary_head.num_classes=1: softmax'),
    ),
    'one channel and softmax': (
        dict(
            values=(0, 1),
            classes=('ground', 'object'),
            model=dict(decode_head=dict(UPER, num_classes=2, out_channels=1)),
        ),
        put(),
        'train',
        ('fault', r'model.decode_head.out_channels=1: softmax'),
    ),
    'one channel and sigmoid': (
        dict(
            values=(0, 1),
            classes=('ground', 'object'),
            model=dict(decode_head=dict(UPER, num_classes=2, out_channels=1, threshold=0.5, loss_decode=SIGMOID)),
        ),
        put(),
        'train test',
        None,
    ),
    'one class and sigmoid': (
        one_class(num_classes=1, loss_decode=SIGMOID),
        put(),
        'train',
        ('warning', r'"object" is the only class: every labelled pixel is of it'),
    ),
    'one class in a test': (one_class(num_classes=1), put(), 'test', ('warning', r'"object" is the only class')),
    'label that no head ignores': (
        dict(values=(0, 1, 2, 200)),
        put(train_data__ignore_index=200),
        'train',
        ('fault', r'holds the label 200, which is no class and is not model.decode_head.ignore_index=255'),
    ),
    'label that the heads ignore': (
        dict(values=(0, 1, 2, 200), model=dict(decode_head=dict(UPER, ignore_index=200))),
        put(train_data__ignore_index=200),
        'train',
        None,
    ),
    'label that no metric ignores': (
        dict(values=(0, 1, 2, 200)),
        put(test_data__ignore_index=200),
        'test',
        ('fault', r'holds the label 200, .*test_evaluator\[0\].ignore_index=255'),
    ),
    'masks are loaded, but there are none': (
        dict(),
        put(test_data__data_prefix=dict(img_path='img/val')),
        'test',
        (
            'fault',
            r'^test_dataloader.dataset: pipeline\[1\] \(LoadAnnotations\) loads masks, but data_prefix.seg_map_path',
        ),
    ),
    'no masks': (
        dict(),
        put(test_data__data_prefix=dict(img_path='img/val'), test_data__pipeline=[dict(type='LoadImageFromFile')]),
        'test',
        None,
    ),
    'masks of another kind': (
        dict(values=(0, 7)),
        put(train_data__pipeline=[dict(type='LoadDepthAnnotation')]),
        'train',
        None,
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_labels_against_the_configuration(tmp_path, warned, name):
    options, change, splits, expected = CASES[name]
    cfg = settings(tmp_path, **options)
    change(cfg)
    level, words = expected or (None, '')
    for _ in range(2):  # the second run finds the files' results in the cache
        warned.clear()
        if level == 'fault':
            with pytest.raises(InputError, match=words) as caught:
                check_config(cfg, splits.split())
            assert '\n' not in str(caught.value)
            continue
        check_config(cfg, splits.split())
        assert bool(warned) == (level == 'warning')
        assert not warned or any(re.search(f'^Data check: .*{words}', line) for line in warned), warned


def test_classes_of_several_data_sets(tmp_path, warned):
    """Each of them holds two of the three classes."""
    cfg = settings(tmp_path / 'a', values=(0, 1))
    other = settings(tmp_path / 'b', values=(0, 2)).train_dataloader.dataset
    check_config(cfg, ['train'])
    assert len(warned) == 1 and '"box"' in warned[0]
    warned.clear()
    both = dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset, other])
    cfg.train_dataloader = dict(dataset=both)
    check_config(cfg, ['train'])
    assert not warned
    cfg.train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[other, dict(type='NobodysDataset')]))
    check_config(cfg, ['train'])
    assert not warned  # the other one may hold the class


def test_zero_labels_that_differ_with_reason(tmp_path, warned):
    cfg = settings(tmp_path / 'a')
    cfg.test_dataloader = settings(tmp_path / 'b', values=(0, 1, 2, 3)).test_dataloader
    cfg.test_dataloader.dataset.reduce_zero_label = True
    check_config(cfg, ['train', 'test'])
    assert len(warned) == 1 and 'mean different classes' in warned[0]
