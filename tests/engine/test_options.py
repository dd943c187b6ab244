"""Values on the command line: text stays as typed, numbers and lists are read."""

import pytest
from mmengine.config import DictAction

from mmbackbones.engine.config import load_config, parse_options
from mmbackbones.engine.options import read_value
from tests.conftest import ROOT

CONFIG = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')


@pytest.mark.parametrize(
    'text',
    [
        *('1', '-1', '0.5', '1e-3', 'True', 'false', 'None', 'abc', 'a', '', 'dynamic', 'ss2d-last2'),
        *('[1,2]', '(1,2)', '(256,256)', '1,2,3', '[a, b, c]', '[[1,2],[3]]', '[(1, 2, 3), [a, b], c]'),
        *('(disc,)', '[]', '()', 'a,', '[a,,b]', "['a','b']", '("a","b")', 'bbox,segm'),
    ],
)
def test_what_mmengine_reads_well_is_read_the_same(text):
    ours, theirs = read_value(text, 'key'), DictAction._parse_iterable(text)
    assert ours == theirs and type(ours) is type(theirs)


@pytest.mark.parametrize(
    'text, key, present, value',
    [
        ('/x/run no 7', 'work_dir', None, '/x/run no 7'),
        ('2026', 'work_dir', None, '2026'),
        ('None', 'test_dataloader.dataset.ann_file', 'a.json', None),
        ('/x/set,2026', 'train_dataloader.dataset.data_root', 'a', '/x/set,2026'),
        ('[a]', 'data_root', 'a', '[a]'),
        ('[a,b]', 'data_root', ['a'], ['a', 'b']),
        ('/d/Größe, alt', 'data_prefix.img', 'x', '/d/Größe, alt'),
        ('a]b,c', 'test_evaluator.outfile_prefix', None, 'a]b,c'),
        ('0.1', 'model.backbone.drop_path', None, 0.1),  # no path
        ('/x/run(1,2)', 'key', None, '/x/run(1,2)'),
        ('[data', 'key', None, '[data'),
        ('dict(a=1,b=2)', 'key', None, 'dict(a=1,b=2)'),
        ('a=b', 'key', None, 'a=b'),
        ('traffic light', 'key', None, 'traffic light'),
        ("it's, ok", 'key', 'text', "it's, ok"),
        ('"a,b"', 'key', None, 'a,b'),
        ("'7'", 'key', 7, '7'),
        ('[traffic light, "a,b", it\'s]', 'metainfo.classes', None, ['traffic light', 'a,b', "it's"]),
        ('Straße,Größe', 'metainfo.classes', ('a',), ['Straße', 'Größe']),
        ('bbox,segm', 'test_evaluator.metric', 'bbox', ['bbox', 'segm']),
        ('512', 'optim_wrapper.loss_scale', 'dynamic', 512),
    ],
)
def test_text_stays_as_typed(text, key, present, value):
    found = read_value(text, key, present)
    assert found == value and type(found) is type(value)


def test_the_value_replaced_decides():
    options = parse_options(['test_evaluator.format_only=True', 'log_level=x, y'])
    cfg = load_config(CONFIG, options)
    assert cfg.log_level == 'x, y' == options['log_level']  # what the record keeps
    assert cfg.test_evaluator.format_only is True
