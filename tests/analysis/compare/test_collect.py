"""Published rows beside ours, and none where none is published; the rest is tested on real trainings in tests/tools."""

import json

import pytest

from mmbackbones.analysis.compare.by_arm import arm_rows, to_markdown
from mmbackbones.analysis.compare.collect import collect
from mmbackbones.analysis.compare.names import network_of
from mmbackbones.engine.config import ARM_KEY, load_config
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.records import RECORDS, REQUIRED, append_record, settings_of
from tests.conftest import ROOT


@pytest.fixture
def make_work_dir(tmp_path):

    def make(config, **more):
        cfg = load_config(ROOT / 'configs' / config, more.get('options'), more.get('backbone'))
        record = {
            **dict.fromkeys(REQUIRED),
            'kind': 'train',
            'tta': False,
            'task': 'detection',
            'recipe': cfg.recipe,
            'config': config.rpartition('/')[2],
            'config_file': f'configs/{config}',
            'seed': 0,
            'params': 42e6,
            'train_seconds': 7200.0,
            'metrics': {'coco/bbox_mAP': 0.4512, 'coco/segm_mAP': 0.41},
            'data_fingerprint': 'd',
            'settings': settings_of(cfg),
            **environment(),
            **more,
        }
        work_dir = tmp_path / record['config'] / str(len(list(tmp_path.rglob(RECORDS))))
        append_record(work_dir / RECORDS, record)
        (work_dir / 'final').mkdir()
        (work_dir / 'final' / 'run.json').write_text(json.dumps(record))
        return work_dir

    return make


def test_published_numbers_stand_beside_ours(make_work_dir):
    (row,) = collect([make_work_dir('mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')]).rows()
    assert (row['box AP'], row['published box AP'], row['mask AP'], row['published mask AP']) == (
        '45.1',
        '45.1',
        '41.0',
        '41.0',
    )
    assert (row['params (M)'], row['published params (M)'], row['training (h)']) == ('42.0', '43.0', '2.00')
    assert 'MambaOut paper' in row['source']


def test_a_task_with_a_backbone_is_held_against_what_the_backbones_own_file_is(make_work_dir):
    found = collect([make_work_dir('tasks/mask-rcnn_1x_coco.py', backbone='mambaout_tiny')])
    (row,) = found.rows()
    assert (row['published box AP'], row['published params (M)']) == ('45.1', '43.0') and not found.left_out


def test_the_arm_has_a_column_and_is_part_of_the_run(make_work_dir):
    config, options = 'controlled/mask-rcnn_gated-tiny_fpn_8xb2-amp-1x_coco.py', {ARM_KEY: 'ss2d-last2'}
    found = collect([make_work_dir(config, options=options, arm='ss2d-last2'), make_work_dir(config, arm='none')])
    assert [row['arm'] for row in found.rows()] == ['ss2d-last2', 'none'] and not found.left_out
    other = make_work_dir(config, options=options)
    record = json.loads((other / RECORDS).read_text())
    record['options'] = {ARM_KEY: 'ssm-last2'}  # as if the table of arms had changed
    (other / RECORDS).write_text(json.dumps(record) + '\n')
    (reason,) = collect([other]).left_out.values()
    assert 'has changed since the run, in model.backbone.mixers' in reason


@pytest.mark.parametrize(
    ('metrics', 'shown'),
    [
        ({'coco/bbox_mAP': 0.4512}, {'box AP': '45.1'}),
        ({'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.5}, {'VOC mAP': '50.0'}),
        ({'aAcc': 90.0, 'mDice': 81.26, 'mAcc': 1.0}, {'mDice': '81.3'}),
        ({'night/mIoU': 40.0, 'mIoU': 50.0}, {'mIoU': '50.0', 'mIoU (night)': '40.0'}),
        ({'rmse': 0.25}, {'rmse': '0.2'}),
        ({'coco/bbox_mAP': -1.0}, {}),
        ({}, {}),
    ],
)
def test_whatever_metrics_there_are_get_columns(make_work_dir, metrics, shown):
    config = 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'
    found = collect([make_work_dir(config, metrics=metrics)])
    (row,) = found.rows()
    scores = found.columns()[found.columns().index('seed') + 1 : found.columns().index('published box AP')]
    assert {name: row[name] for name in scores if row[name]} == shown
    assert ('no score is recorded' in row['remarks']) == (not shown)
    assert all(f'| {name} |' in to_markdown(found) for name in shown)


def test_no_published_row_is_said(make_work_dir):
    (row,) = collect([make_work_dir('mambaout/mask-rcnn_mambaout-femto_fpn_8xb2-amp-1x_coco.py')]).rows()
    assert row['published box AP'] == '' and 'published for ImageNet only' in row['remarks']


def test_remarks(make_work_dir):
    config = 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'
    found = collect(
        [
            make_work_dir(config, commit='0123456789ab', resumed=True),
            make_work_dir(config, commit='0123456789ab+', config_file='gone.py'),
        ]
    )
    old, gone = (row['remarks'] for row in found.rows())
    assert 'run at commit 0123456789ab, the code is at ' in old and 'the time of the whole training is not known' in old
    assert 'run from uncommitted changes' in gone and 'the config file gone.py is not here' in gone
    assert found.rows()[0]['training (h)'] == ''


def test_other_recipes_and_data_get_tables_of_their_own(make_work_dir):
    config = 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'
    found = collect([make_work_dir(config), make_work_dir(config, data_fingerprint='other'), make_work_dir(config)])
    assert [len(table) for table in found.tables] == [2, 1]
    assert found.apart == ['table 2 is kept apart from table 1: they differ in data_fingerprint']


def test_seeds_of_one_arm_are_one_line_with_mean_and_range(make_work_dir):
    config = 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'
    scores = (0.4512, 0.4478, 0.4544)
    found = collect(
        [
            make_work_dir(
                config,
                seed=seed,
                options={'randomness.seed': seed},
                metrics={'coco/bbox_mAP': score, 'coco/segm_mAP': 0.41},
            )
            for seed, score in enumerate(scores)
        ]
    )
    assert len(found.rows()) == 3  # for --csv
    (line,) = arm_rows(found.tables[0], 1)
    assert line['box AP'] == '45.1 (44.8 to 45.4)' and line['seed'] == '0, 1, 2' and line['published box AP'] == '45.1'
    assert line['training (h)'] == '2.00'
    assert '| seeds |' in to_markdown(found) and '45.1 (44.8 to 45.4)' in to_markdown(found)


@pytest.mark.parametrize(
    ('config', 'more', 'name'),
    [
        ('mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco.py', {}, 'vmamba-tiny-s1l8'),
        ('mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', {}, 'mambaout-tiny'),
        ('mask-rcnn_1xb4-300_shapes-coco.py', {}, 'MambaOut'),
        ('mask-rcnn_1xb4-300_shapes-coco_vim_mini.py', dict(backbone='vim_mini'), 'vim_mini'),
        (
            'gated-tiny_fcn-1x1_8xb2-amp-160k_ade20k-512x512_ss2d-last2.py',
            dict(arm='ss2d-last2'),
            'gated-tiny ss2d-last2',
        ),
        ('my own network.py', {}, 'my own network'),
    ],
)
def test_names_of_networks_are_short(config, more, name):
    settings = dict(model=dict(backbone=dict(type='mmbackbones.MambaOut')))
    assert network_of(dict(config=config, settings=settings, **more)) == name
