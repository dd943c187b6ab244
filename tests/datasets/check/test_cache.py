"""A second look is cached, and the fingerprint follows the content."""

import json
import os
import shutil
from pathlib import Path

import pytest

from mmbackbones.datasets.check import data_fingerprint
from tests.datasets.check.cases import ANN, JPEG, PNG, annotation, coco_cfg, look, put, redraw, seg_cfg, with_label

pytestmark = pytest.mark.promise('data-check')


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
