"""Records survive crashes, and only what differs in declared keys may stand in one table."""

import copy
import json
import multiprocessing

import pytest

from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import (
    REQUIRED,
    append_record,
    arm_of,
    differing_keys,
    read_records,
    settings_of,
    surroundings,
)
from tests.conftest import ROOT

CONFIG = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')
OTHER = str(ROOT / 'configs/vmamba/mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco.py')
PLAIN = str(ROOT / 'configs/vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py')


def record(kind='train', **more):
    return {**dict.fromkeys(REQUIRED), 'kind': kind, 'versions': {}, 'metrics': {'mIoU': 1.0}, **more}


def result(config=CONFIG, seed=0, kind='train', **options):
    cfg = load_config(config, {'randomness.seed': seed, **options})
    return record(
        kind,
        config=config,
        recipe=cfg.recipe,
        seed=seed,
        task='detection',
        data_fingerprint='d',
        settings=settings_of(cfg),
        tta=False,
    )


def append_many(path, first):
    for number in range(first, first + 50):
        append_record(path, record(number=number, filler='x' * 5000))


def test_lines_of_several_processes_stay_whole(tmp_path):
    context = multiprocessing.get_context('fork')
    writers = [context.Process(target=append_many, args=(tmp_path / 'r.jsonl', 50 * index)) for index in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(found['number'] for found in read_records(tmp_path / 'r.jsonl')) == list(range(150))


def test_old_names_are_read_as_todays(tmp_path):
    path = tmp_path / 'r.jsonl'
    append_record(path, record('probe', config='probe_row_dw3', recipe='probe steps=300 position=none'))
    append_record(path, record('ladder', config='a.py', rungs=[dict(size=64)]))
    for attention in ('fused', 'materialised', None, 'sdpa'):
        append_record(path, record('speed', attention=attention))
    append_record(path, record('train', attention='fused'))
    before = path.read_bytes()
    probe, ladder, *speed, train = read_records(path)
    assert (probe['kind'], probe['config']) == ('long_range', 'long_range_row_dw3')
    assert probe['recipe'] == 'steps=300 position=none'
    assert ladder['kind'] == 'resolution_sweep' and ladder['points'] == [dict(size=64)] and 'rungs' not in ladder
    assert [each['attention'] for each in speed] == ['sdpa', 'eager', None, 'sdpa']
    assert train['attention'] == 'fused' and path.read_bytes() == before


def test_half_written_line_is_reported_and_costs_no_other(tmp_path):
    path, told = tmp_path / 'records.jsonl', []
    append_record(path, record(number=1))
    whole = path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole + whole[:cut])
        told.clear()
        assert [found['number'] for found in read_records(path, told.append)] == [1]
        assert told == [f'{path}:2: half-written line passed over']
        append_record(path, record(number=2))
        assert [found['number'] for found in read_records(path, told.append)] == [1, 2]


def test_a_line_that_is_no_record_is_reported(tmp_path, capsys):
    path = tmp_path / 'records.jsonl'
    path.write_text(json.dumps({'kind': 'train'}) + '\n[1]\n\n')
    assert read_records(path) == []
    assert capsys.readouterr().err.count('no record (it lacks ') == 2
    with pytest.raises(InputError, match='absent: no readable file of records'):
        read_records(tmp_path / 'absent')
    with pytest.raises(ValueError, match=r"kind 'train' lacks config, .*metrics"):
        append_record(path, {'kind': 'train'})


@pytest.mark.parametrize('other', [OTHER, PLAIN], ids=['other-backbone', 'single-stride'])
def test_configs_of_the_common_recipe_may_meet(other):
    assert differing_keys([result(), result(other), result(seed=1)]) == []
    assert arm_of(result()) == arm_of(result(seed=7)) != arm_of(result(other))


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('optim_wrapper.optimizer.lr', 2e-4),
        ('train_cfg.max_epochs', 36),
        ('test_dataloader.dataset.pipeline.1.scale', (1333, 640)),
        ('train_dataloader.batch_size', 4),
        ('model.roi_head.bbox_head.fc_out_channels', 512),
        ('model.neck.out_channels', 128),
    ],
)
def test_differing_settings_are_named(key, value):
    found = differing_keys([result(), result(OTHER), result(OTHER, **{key: value})])
    assert found and all(name.startswith(key) for name in found)
    assert differing_keys([result(), result(OTHER, **{key: value})], allow=[key]) == []


def test_where_data_lies_and_how_it_is_read_does_not_count():
    elsewhere = {
        'test_dataloader.dataset.data_root': 'x/',
        'test_evaluator.ann_file': 'y',
        'work_dir': 'z',
        'train_dataloader.num_workers': 9,
        'val_cfg': None,
    }
    assert differing_keys([result(), result(**elsewhere)]) == []


@pytest.mark.parametrize(
    ('change', 'key'),
    [
        (dict(data_fingerprint='e'), 'data_fingerprint'),
        (dict(recipe='native'), 'recipe'),
        (dict(tta=True), 'tta'),
        (dict(kind='speed'), 'kind'),
    ],
)
def test_differing_facts_are_named(change, key):
    assert key in differing_keys([result(), result() | change])


def test_unknown_facts_are_not_judged_but_missing_settings_are():
    trained, tested = result() | dict(iterations=9, precision='fp16'), result(kind='test') | dict(precision='fp32')
    assert differing_keys([trained, tested]) == []
    bare = copy.deepcopy(trained)
    del bare['settings']
    assert 'settings' in differing_keys([trained, bare])


def test_surroundings_are_told():
    one, other = (record(device='A', versions={'torch': version}) for version in '12')
    assert surroundings([one, other]) == ['torch differs: 1, 2'] and surroundings([one, one]) == []
    speeds = [record('speed', device=device) for device in 'AB']
    assert differing_keys(speeds) == ['device']
