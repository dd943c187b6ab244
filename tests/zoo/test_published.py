"""The published tables: every number with its source, and every config of ours with its row or the reason why not."""

from fnmatch import fnmatchcase

import pytest

from mmbackbones.errors import InputError
from mmbackbones.zoo import published
from mmbackbones.zoo.published import match, match_network, published_checkpoints, published_row, published_rows
from mmbackbones.zoo.rows import read_rows
from tests.conftest import ROOT

CONFIGS = sorted(
    path for path in ROOT.glob('configs/**/*_*.py') if path.relative_to(ROOT).parts[1] not in ('_base_', 'tasks')
)


@pytest.mark.parametrize('task', published.TABLES)
def test_every_row_has_numbers_and_a_source(task):
    rows = published_rows(task)
    assert len(rows) > 50
    for row in rows:
        assert row.source and row.metrics, row
        assert all(20 < value < 92 for value in row.metrics.values()), row


@pytest.mark.parametrize('task', published.TABLES)
def test_no_row_stands_twice_and_every_word_is_in_the_vocabulary(task):
    rows = published_rows(task)
    assert len({(row.family, row.variant, row.head, row.recipe) for row in rows}) == len(rows)
    for row in rows:
        assert set(row.token_mixer.split('+')) <= set(published.TOKEN_MIXERS), row
        assert row.pretraining_extras in ('', *published.PRETRAINING_EXTRAS), row
        assert row.augmentation_1x in ('', *published.AUGMENTATIONS_1X), row
        assert not row.augmentation_1x or row.recipe == '1x (12 epochs)', row


def test_what_a_row_has_beyond_the_plain_recipe():
    assert published_row('detection', 'MILA', 'T').beyond_plain == 'pretraining: MESA, 1x: multi-scale crop'
    assert published_row('detection', 'Spatial-Mamba', 'T').beyond_plain == 'pretraining: MESA'
    assert published_row('segmentation', 'H-ViT3', 'B').beyond_plain == 'pretraining: MESA'
    assert published_row('classification', 'MambaVision', 'L, 21k').beyond_plain == 'pretraining: ImageNet-21K'
    for family, variant in (('RAVLT', 'L'), ('VSSD', 'Micro'), ('TransNeXt', 'Tiny'), ('DAMamba', 'T'), ('Swin', 'T')):
        assert published_row('detection', family, variant).beyond_plain == ''
    assert published_row('detection', 'RAVLT', 'L').metrics == {'AP_box': 52.3, 'AP_mask': 46.4}
    extrapolated = published_row('segmentation', 'TransNeXt', 'Base (multi-scale, extrapolated bias)')
    assert extrapolated.metrics == {'mIoU_ms': 53.7}


def test_known_numbers():
    row = published_row('detection', 'MambaOut', 'Tiny')
    assert (row.params, row.macs, row.shape) == (43, 262, '800x1280')
    assert (row.metrics['AP_box'], row.metrics['AP_mask']) == (45.1, 41.0)
    assert row.source.endswith('Table 2') and row.note
    assert published_row('segmentation', 'VMamba', 'v2 T s1l8').metrics == {'mIoU_ss': 47.9, 'mIoU_ms': 48.8}
    assert published_row('classification', 'DeiT', 'Ti').metrics == {'top1': 72.2}
    assert published_row('segmentation', 'Vim', 'S').macs is None


def test_recipes_do_not_mix():
    one, three = (
        published_row('detection', 'Swin', 'T', recipe).metrics['AP_box']
        for recipe in (None, '3x multi-scale (36 epochs)')
    )
    assert (one, three) == (42.7, 46.0)


def test_checkpoints_have_addresses():
    assert all(row['url'].startswith(('https://', 'hf://')) and row['source'] for row in published_checkpoints())


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.relative_to(ROOT / 'configs').as_posix())
def test_every_config_has_a_row_or_a_reason(path):
    found = match(path)
    assert 'models.csv' not in found.remark and 'the name of the config' not in found.remark, found.remark
    assert found.row is not None or found.remark
    if found.row is not None:
        task = published.network_and_task(path)[1]
        setting = published.SETTINGS[published.setting_of(path) or task]
        assert found.row.task == task == setting.task
        assert found.row.head == setting.head and setting.recipe in (found.row.recipe, None)


def test_no_row_is_claimed_twice_by_one_recipe():
    claims = [
        (match(path).row, path.parent.name == 'native', published.network_and_task(path)[0])
        for path in CONFIGS
        if match(path).row is not None
    ]
    networks = {}
    for row, native, network in claims:
        assert networks.setdefault((row.task, row.head, row.name, native), network) == network


def test_a_task_with_a_backbone_has_the_row_of_the_backbones_file():
    names = {'detection': 'mask-rcnn_1x_coco.py', 'segmentation': 'upernet_160k_ade20k-512x512.py'}
    common = [path for path in CONFIGS if path.parent.name not in ('native', 'quickstart', 'controlled', 'miniature')]
    assert len(common) > 100
    for path in common:
        network, task = published.network_and_task(path)
        assert match(ROOT / 'configs/tasks' / names[task], backbone=network.replace('-', '_')) == match(path)


@pytest.mark.parametrize(
    ('task', 'boxes'),
    [
        ('mask-rcnn_1x', dict(mambavision_tiny=None, swin_tiny=42.7, vim_tiny=None)),
        ('mask-rcnn_3x', dict(vmamba_tiny_s1l8=48.8, swin_tiny=46.0, ravlt_large=53.6, swin_base=None)),
        (
            'cascade-mask-rcnn_3x',
            dict(mambavision_tiny=51.1, mambavision_base=52.8, convnext_base=52.7, swin_small=51.9),
        ),
        ('cascade-mask-rcnn_lsj-100e', dict(vim_tiny=45.7, vim_small=47.1, deit_tiny=44.4, mambaout_tiny=None)),
        ('rtmdet-ins_100e', dict(vmamba_tiny_s1l8=None)),
        ('rtmdet-ins-tiny_100e', dict(swin_tiny=None)),
    ],
)
def test_every_task_of_coco_has_rows_of_its_own_head_and_schedule(task, boxes):
    for backbone, box in boxes.items():
        config = ROOT / f'configs/tasks/{task}_coco.py'
        found = match(config, backbone=backbone)
        assert (found.row and found.row.metrics['AP_box']) == box and (found.row or found.remark)
        assert published.network_and_task(config, backbone) == (backbone.replace('_', '-'), 'detection')
        assert match(f'{task}_coco_{backbone}.py', 'common', backbone) == found, 'the name in records'


@pytest.mark.parametrize('task', ['upernet_160k_cityscapes-1024x1024', 'upernet_80k_loveda-1024x1024'])
def test_scores_on_ade20k_are_not_those_of_another_data_set(task):
    for found in (
        match(ROOT / f'configs/tasks/{task}.py', backbone='vmamba_tiny_s1l8'),
        match(f'{task}_vmamba_tiny_s1l8.py', 'common', 'vmamba_tiny_s1l8'),
    ):
        assert found.row is None and found.remark.startswith('the published tables have no scores on ')


def test_no_line_says_what_the_zoo_says():
    """``configs.csv`` is for what family and variant of ``models.csv`` do not tell."""
    for line in read_rows('published/configs.csv'):
        assert line['family'] or line['remark'], line
        for row in read_rows('models.csv'):
            if fnmatchcase(row['name'].replace('_', '-'), line['network']) and line['family']:
                assert (line['family'], line['variant']) != (row['family'], row['variant'])
        if line['family'] not in ('', '-'):
            assert published.row_of(line['task'], line['family'], line['variant']), line


def test_reasons_that_follow_from_the_tables():
    assert match_network('mambaout-kobe', 'detection').remark == 'published for ImageNet only'
    assert match_network('vim-small', 'detection').remark == 'not in the published tables'
    assert match_network('resnet-50', 'classification').row.metrics == {'top1': 76.156}
    assert match_network('pvtv2-b2', 'detection').row.variant == 'B2'


def test_miniatures_have_none():
    for path in ('quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py', 'mask-rcnn_1xb4-300_shapes-coco.py'):
        assert match(path, 'quickstart', 'vim_mini') == match(path, 'quickstart')
        assert match(path, 'quickstart').remark == 'a miniature for the quickstart'


def test_native_networks_may_have_another_remark():
    name = 'localvim-tiny_upernet_8xb2-160k_ade20k-512x512.py'
    assert match(ROOT / 'configs/localvim/native' / name).remark == ''
    assert match(name, 'native') == match(ROOT / 'configs/localvim/native' / name)
    assert 'pyramid' in match(name).remark and match(name).row.params == 36


def test_what_is_not_there():
    assert match('my_model.py').row is None
    assert match('mask-rcnn_1x_coco.py').remark == 'the name of the config tells no network'
    assert match('mask-rcnn_mine-tiny_fpn_8xb2_coco.py').remark == 'mine-tiny is not in mmbackbones/zoo/models.csv'
    assert match('mask-rcnn_plainmamba-l1_sfp_8xb2-amp-1x_coco.py').remark == 'published with a ViT-Adapter only'
    with pytest.raises(InputError, match='0 published rows of Mamba Giant'):
        published_row('detection', 'Mamba', 'Giant')
    with pytest.raises(InputError, match="task 'sorting': expected one of detection"):
        published_rows('sorting')
