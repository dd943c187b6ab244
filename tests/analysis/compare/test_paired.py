"""What may be compared, what is concluded, and how bad predictions are refused."""

import copy
import json
import shutil

import numpy as np
import pytest

from mmbackbones.analysis.compare.paired import compare_runs, to_record
from mmbackbones.analysis.compare.show import tables
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.predictions import load_run, tokens_of
from mmbackbones.evaluation.records import REQUIRED, append_record, read_records, settings_of
from tests.conftest import ROOT
from tests.evaluation.slow_evaluation import pycocotools_ap

CONFIGS = {
    name: str(ROOT / 'configs' / path)
    for name, path in {
        'mambaout': 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py',
        'vmamba': 'vmamba/mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco.py',
        'vim': 'vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py',
    }.items()
}


@pytest.fixture(scope='module')
def oracle(realdata):
    """Published fake detections on a hundred real images."""
    folder = realdata / 'eval_oracle' / 'coco_val2014_fake100_bbox'
    results = json.loads((folder / 'instances_val2014_fakebbox100_results.json').read_text())
    return folder / 'instances_val2014_100.json', results


@pytest.fixture
def make_run(oracle, tmp_path):
    """Writes a folder as ``test.py --out`` does; ``loss`` of the detections are missing."""
    annotations, results = oracle
    ids = [image['id'] for image in json.loads(annotations.read_text())['images']]

    def make(name, config='mambaout', seed=0, loss=0.0, options=None, **record):
        folder = tmp_path / name
        folder.mkdir()
        keep = np.random.default_rng(len(name) + 10 * seed).random(len(results)) >= loss
        kept = [result for result, keeps in zip(results, keep) if keeps]
        (folder / 'predictions.bbox.json').write_text(json.dumps(kept))
        ap = pycocotools_ap(annotations, folder / 'predictions.bbox.json', 'bbox')['all']
        cfg = load_config(
            CONFIGS[config], {'randomness.seed': seed, 'test_evaluator.ann_file': str(annotations), **(options or {})}
        )
        content = {
            **dict.fromkeys(REQUIRED),
            'kind': 'test',
            'versions': {},
            'date': '',
            'tta': False,
            'task': 'detection',
            'config': f'{config}.py',
            'config_hash': f'{config}{seed}',
            'seed': seed,
            'recipe': cfg.recipe,
            'data_fingerprint': 'd',
            'image_ids': ids,
            'settings': settings_of(cfg),
            'metrics': {'coco/bbox_mAP': round(ap, 3)},
            **record,
        }
        (folder / 'run.json').write_text(json.dumps(content))
        return folder

    return make


def compare(*folders, **options):
    return compare_runs(folders, resamples=100, metrics=['box AP'], **{'splits': (), **options})


def test_one_seed_speaks_of_checkpoints(make_run, oracle):
    first, second = make_run('a'), make_run('b', 'vmamba', loss=0.4)
    found = compare(first, second)
    (row,) = found.differences
    points = [
        100 * pycocotools_ap(oracle[0], folder / 'predictions.bbox.json', 'bbox')['all'] for folder in (first, second)
    ]
    assert [row.reference_score, row.score] == pytest.approx(points, abs=1e-6)
    assert row.low < row.difference < row.high < 0 and row.p < 0.05 and row.about == 'checkpoints'
    (sentence,) = found.sentences
    assert 'These checkpoints differ by more than the choice of images explains' in sentence
    assert 'not the methods: another seed may give another difference' in sentence
    assert found.differences == compare(first, second).differences
    assert found.differences != compare(first, second, seed=1).differences


def test_equal_predictions_show_no_difference(make_run):
    first, second = make_run('a'), make_run('b', 'vmamba')
    (row,) = compare(first, second).differences
    assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)
    assert 'No difference between these checkpoints is shown' in compare(first, second).sentences[0]


def test_three_seeds_speak_of_methods(make_run):
    arms = [
        [make_run(f'{config}{seed}', config, seed, loss) for seed in range(3)]
        for config, loss in (('mambaout', 0.05), ('vmamba', 0.5))
    ]
    found = compare(*arms[0], *arms[1])
    (row,) = found.differences
    assert row.about == 'methods' and [arm.seeds for arm in found.arms] == [3, 3]
    assert 'The methods differ by more than the choice of seeds and images explains' in found.sentences[0]
    assert 'checkpoints' not in found.sentences[0]
    assert 'With 3 seeds the interval is narrower than it should be' in found.sentences[0]
    two = compare(*arms[0], *arms[1][:2]).differences[0]
    assert two.about == 'checkpoints'


def shown(found) -> list[dict[str, str]]:
    """Lines of the first table by column."""
    table = tables(found)[0]
    cells = [list(column.cells) for column in table.columns]
    return [dict(zip([column.header for column in table.columns], line)) for line in zip(*cells)]


def test_the_table_has_mean_and_range_and_no_p_value_below_three_seeds(make_run):
    arms = [[make_run(f'{name}{seed}', name, seed, 0.1) for seed in range(3)] for name in ('mambaout', 'vmamba')]
    found = compare(*arms[0], *arms[1])
    reference, line = shown(found)
    scores = found.differences[0].by_run
    assert line['mean'] == f'{np.mean(scores):.2f}' and line['seeds'] == '3'
    assert line['range over seeds'] == f'{min(scores):.2f} to {max(scores):.2f}'
    assert line['interval over'] == 'seeds and images: the methods' and line['p'] == f'{found.differences[0].p:.3g}'
    assert (reference['arm'], reference['difference']) == ('mambaout', 'reference') and ' to ' in reference[
        'range over seeds'
    ]
    two = compare(*arms[0][:2], *arms[1][:2])
    for line in shown(two):
        assert not any(name.startswith('p') for name in line) and ' to ' in line['range over seeds']
    assert shown(two)[1]['interval over'] == 'images: these checkpoints'
    assert ', p ' not in two.sentences[0] and 'over 2 runs' in two.sentences[0]


def test_seeds_of_one_method_are_compared_as_checkpoints(make_run):
    found = compare(make_run('a', seed=0), make_run('b', seed=1, loss=0.3))
    assert found.differences[0].about == 'checkpoints' and found.arms[0].name != found.arms[1].name


def test_more_than_two_are_corrected(make_run):
    found = compare(make_run('a'), make_run('b', 'vmamba', loss=0.1), make_run('c', 'vim', loss=0.4))
    assert {row.reference for row in found.differences} == {'mambaout'}
    plain, corrected = ([getattr(row, name) for row in found.differences] for name in ('p', 'p_holm'))
    assert corrected[int(np.argmin(plain))] == pytest.approx(min(1, 2 * min(plain)))
    assert all('after Holm for 2 comparisons' in sentence for sentence in found.sentences)


def test_splits(make_run):
    found = compare(make_run('a'), make_run('b', 'vmamba', loss=0.3), splits=('object size', 'tokens', 'image area'))
    groups = {
        split: [row.group for row in found.differences if row.split == split]
        for split in ('all', 'object size', 'tokens', 'image area')
    }
    assert groups['object size'] == ['small objects', 'medium objects', 'large objects']
    assert 2 <= len(groups['tokens']) <= 3 and all(group.endswith(' tokens') for group in groups['tokens'])
    assert 2 <= len(groups['image area']) <= 3
    assert len(tables(found)) == 4


def test_record_holds_everything(make_run, tmp_path):
    found = compare(make_run('a'), make_run('b', 'vmamba', loss=0.3), splits=('image area',))
    append_record(tmp_path / 'r.jsonl', to_record(found))
    (record,) = read_records(tmp_path / 'r.jsonl')
    assert record['metrics'] == {'box AP: vmamba - mambaout': found.differences[0].difference}
    assert len(record['differences']) == len(found.differences) and record['sentences'] == found.sentences


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (dict(data_fingerprint='other'), 'data_fingerprint'),
        (dict(recipe='native'), 'recipe'),
        (dict(options={'optim_wrapper.optimizer.lr': 3e-4}), 'optim_wrapper.optimizer.lr'),
        (dict(options={'model.test_cfg.rcnn.score_thr': 0.3}), 'model.test_cfg.rcnn.score_thr'),
        (dict(tta=True), 'tta'),
    ],
)
def test_what_differs_elsewhere_is_refused_by_name(make_run, change, named):
    first, second = make_run('a'), make_run('b', 'vmamba', **change)
    with pytest.raises(InputError, match=rf'cannot be compared, they differ in {named}; --allow'):
        compare(first, second)
    assert compare(first, second, allow=[named]).differences


def test_bad_runs(make_run, tmp_path):
    good, bad = make_run('good'), make_run('bad', 'vmamba')
    whole = json.loads((bad / 'run.json').read_text())

    def refuse(message, **options):
        with pytest.raises(InputError, match=message) as caught:
            compare(good, bad, **options)
        assert '\n' not in str(caught.value)

    results = json.loads((bad / 'predictions.bbox.json').read_text())
    (bad / 'predictions.bbox.json').write_text(json.dumps(results[:300]))
    refuse('saved predictions give box AP .*, the record says .*: predictions are missing')
    (bad / 'predictions.bbox.json').write_text(json.dumps(results)[:900])
    refuse(r'bad/predictions\.bbox\.json: no readable predictions')
    (bad / 'predictions.bbox.json').write_text(json.dumps(results))
    refuse('elsewhere: no such annotation file', annotations=tmp_path / 'elsewhere')
    (bad / 'run.json').write_text(json.dumps(whole | dict(image_ids=whole['image_ids'][:7])))
    refuse('differ in image_ids')
    (bad / 'run.json').write_text(json.dumps(whole)[:500])
    refuse('bad/run.json: not a whole record')
    old = copy.copy(whole)
    del old['settings']
    (bad / 'run.json').write_text(json.dumps(old))
    refuse('the record lacks settings')
    shutil.rmtree(bad)
    refuse('bad: no such folder')
    bad.mkdir()
    (bad / '.final.partial').mkdir()
    refuse('bad: no finished run: .*a half-written one was left')
    with pytest.raises(InputError, match='given twice'):
        compare(good, good)
    with pytest.raises(InputError, match='needs two runs'):
        compare(good)


def test_images_that_were_not_tested(make_run):
    first, second = (
        make_run(name, config, image_ids=list(range(3))) for name, config in (('a', 'mambaout'), ('b', 'vmamba'))
    )
    with pytest.raises(InputError, match=r'a: tested on 3 images, but .*instances_val2014_100\.json has 100, such as'):
        compare(first, second)


def test_tokens_follow_the_test_pipeline():
    settings = settings_of(load_config(CONFIGS['mambaout']))
    # 640 x 480 becomes 1067 x 800, padded to multiples of 32: 68 x 50 patches of 16 x 16
    assert tokens_of(settings, [(640, 480), (480, 640)]).tolist() == [3400, 3400]
    settings['test_dataloader']['dataset']['pipeline'].insert(1, dict(type='CenterCrop'))
    assert tokens_of(settings, [(640, 480)]) is None


def test_work_dir_stands_for_its_final_folder(make_run, tmp_path):
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    make_run('a').rename(work_dir / 'final')
    assert load_run(work_dir).folder == work_dir / 'final'
