"""Whole configurations: sound data passes, faults stop a run, each data set is checked once."""

import copy
import json
import re
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config

from mmbackbones.datasets.check import check_config, inspect_config, specs
from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.segmentation import SegmentationSpec
from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from tests.conftest import ROOT
from tests.datasets.check.cases import (
    ANN,
    IMAGES,
    JPEG,
    annotation,
    coco_cfg,
    config,
    look,
    put,
    seg_cfg,
)

pytestmark = pytest.mark.promise('data-check')


def test_missing_data_folder_is_named(tmp_path):
    for cfg in (coco_cfg(tmp_path / 'data' / 'coco'), seg_cfg(tmp_path / 'data' / 'ade')):
        with pytest.raises(InputError, match=rf'no such .*; the folder {tmp_path}/data does not exist'):
            look(cfg).require_clean()


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
            # Two images hold no triangle.
            assert not report.faults and {warning.kind for warning in report.warnings} <= {'category'}
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


def test_warnings_come_at_every_run(data, warned):
    """One line for each kind, also from the cache."""
    for index in (0, 1):
        annotation(index, bbox=[0, 0, 0.5, 5])(data / 'coco')
    cfg = config(data)
    said = []
    for _ in range(2):
        warned.clear()
        check_config(cfg)
        said.append(list(warned))
    assert said[0] == said[1]
    (line,) = (line for line in said[0] if 'instances_train2017.json: annotation ' in line)
    assert line.startswith('Data check: ') and '(and 1 more of this kind' in line


def test_wrapped_data_sets_are_found_and_checked_once(data, monkeypatch):
    looked = []
    for cls in (CocoSpec, SegmentationSpec):
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
    monkeypatch.setattr(specs, 'print_log', lambda message, **options: notes.append(message))
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
    assert re.search(rf'^fault: .*{Path(JPEG).name}: .*0 bytes', printed, re.MULTILINE)  # one line, not a table
    assert json.loads((tmp_path / 'found.json').read_text())['train'][0]['full']
    for argv in ([str(tmp_path / 'nothing.py')], [str(file), '--cfg-options', 'train_dataloder.x=1'], []):
        with pytest.raises(SystemExit) as stopped:
            run_command(main, argv)
        assert stopped.value.code == 2
        assert 'error: ' in capsys.readouterr().err
