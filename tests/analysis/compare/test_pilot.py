"""compare.py --power on runs of a few small images: its tables, sentences and record, and what it refuses."""

import json
import math
import runpy

import numpy as np
import pytest
from PIL import Image

from mmbackbones.analysis.compare.pilot import DIFFERENCES, need, pilot_of, read_pilot, to_record
from mmbackbones.analysis.compare.power import Components
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import RECORDS, REQUIRED, read_records
from tests.conftest import ROOT

IMAGES, CLASSES = 40, 3
compare = runpy.run_path(str(ROOT / 'tools' / 'analysis' / 'compare.py'))['main']


@pytest.fixture
def make_run(tmp_path):
    """A folder as ``test.py --out`` leaves it, of a segmentor that is right in about ``share`` of the pixels."""

    def make(arm, seed, share=0.7, **record):
        folder = tmp_path / f'{arm}{seed}'
        (folder / 'masks').mkdir(parents=True)
        names = [f'{number:03}' for number in range(IMAGES)]
        for name in names:
            Image.new('L', (8, 8)).save(folder / 'masks' / f'{name}.png')
        rng = np.random.default_rng([*map(ord, arm), seed])
        label = np.full((IMAGES, CLASSES), 20)
        hit = rng.binomial(20, share + 0.02 * rng.normal(), label.shape)
        union = 2 * label - hit
        areas = dict(intersect=hit, union=union, label=label, prediction=label)
        np.savez(folder / 'areas.npz', image_ids=names, **areas)
        content = {
            **dict.fromkeys(REQUIRED),
            'kind': 'test',
            'versions': {},
            'task': 'segmentation',
            'recipe': 'common',
            'config': f'{arm}.py',
            'config_hash': f'{arm}{seed}',
            'seed': seed,
            'data_fingerprint': 'd',
            'image_ids': names,
            'settings': dict(model=dict(backbone=dict(type=arm)), test_evaluator=dict(type='IoUMetric')),
            'metrics': {'mIoU': 100 * float((hit.sum(0) / union.sum(0)).mean())},
            **record,
        }
        (folder / 'run.json').write_text(json.dumps(content))
        return folder

    return make


def test_a_pilot_of_several_seeds(make_run, tmp_path, capsys):
    runs = [make_run(arm, seed) for arm in ('conv', 'scan') for seed in range(3)]
    compare([*map(str, runs), '--power', '--resamples', '200', '--json', str(tmp_path / 'power.json')])
    shown = capsys.readouterr().out
    assert 'mIoU, scan - conv: for a power of 80%, ADE20K val' in shown and 'power at 3' in shown
    assert 'only an indication' in shown and 'varies over seeds by' in shown and 'from 3 and 3 seeds' in shown
    assert 'differ by more' not in shown and 'No difference' not in shown  # it concludes nothing
    record = json.loads((tmp_path / 'power.json').read_text())
    assert read_records(runs[0] / RECORDS) == [record] and record['kind'] == 'power'
    (plan,) = record['plans']
    assert (plan['images'], plan['components']['images'], plan['components']['runs']) == (2000, IMAGES, [3, 3])
    assert [each['difference'] for each in plan['needs']] == list(DIFFERENCES)
    assert all(set(each['power_by_seeds']) == {'3', '5', '10'} for each in plan['needs'])


def test_a_pilot_of_one_seed_says_that_seeds_are_unknown(make_run):
    found = read_pilot([make_run('conv', 0), make_run('scan', 0)], (0.5,), resamples=100, images=777)
    (plan,) = found.plans
    assert plan.components.seeds is None and plan.images == 777
    (each,) = plan.needs
    assert (each.seeds, each.images_by_seeds, each.power_by_seeds) == (None, {}, {}) and each.images_of_checkpoints > 2
    assert 'what seeds do is unknown' in found.sentences[0] and 'two fixed checkpoints' in found.sentences[0]
    assert to_record(found)['plans'][0]['components']['seeds'] is None


def test_a_run_of_a_seed_given_twice_is_no_seed(make_run, tmp_path):
    runs = [make_run('conv', 0), make_run('scan', 0)]
    (tmp_path / 'again').symlink_to(runs[1])
    with pytest.raises(InputError, match='given twice'):
        read_pilot([*runs, tmp_path / 'again'], resamples=100)
    (tmp_path / 'copy').mkdir()
    for name in ('run.json', 'areas.npz'):
        (tmp_path / 'copy' / name).write_bytes((runs[1] / name).read_bytes())
    assert read_pilot([*runs, tmp_path / 'copy'], resamples=100).plans[0].components.runs == (1, 1)


def test_more_images_and_seeds_never_take_more():
    found = Components(40.0, 6.0, 0.05, 4, 400, (3, 3), 0.0)
    needs = [need(found, difference, 5000) for difference in DIFFERENCES]
    assert [each.images_of_checkpoints for each in needs] == sorted(
        (each.images_of_checkpoints for each in needs), reverse=True
    )
    assert needs[0].seeds > needs[1].seeds > needs[2].seeds
    for each in needs:
        assert each.power_by_seeds[3] < each.power_by_seeds[5] < each.power_by_seeds[10]
        numbers = [math.inf if count is None else count for count in each.images_by_seeds.values()]
        assert numbers == sorted(numbers, reverse=True)


def test_refusals(make_run):
    conv, scan = make_run('conv', 0), make_run('scan', 0)

    def refuse(message, *runs, **options):
        with pytest.raises(InputError, match=message) as caught:
            read_pilot(runs, **{'resamples': 100, **options})
        assert '\n' not in str(caught.value)

    refuse('a comparison needs two runs and more', conv)
    refuse('are of one arm; a pilot needs two arms', conv, make_run('conv', 1))
    for value in (-0.5, 0.0, math.nan, 101):
        refuse(rf'--differences {value:g}: expected points above 0', conv, scan, differences=(0.5, value))
    refuse('--images 1: expected 2 and more', conv, scan, images=1)
    refuse('--resamples 99', conv, scan, resamples=99)
    refuse('they differ in recipe', conv, make_run('other', 0, recipe='native'))


def test_an_unknown_score_is_refused(make_run):
    from mmbackbones.evaluation.predictions import load_run

    scored = [(load_run(make_run(arm, 0)), {('aAcc', 'all', 'all'): np.arange(101.0)}) for arm in ('conv', 'scan')]
    with pytest.raises(InputError, match='aAcc: --power knows box AP, mask AP, mIoU, mDice'):
        pilot_of(scored, IMAGES)


@pytest.mark.parametrize('option', ['--differences', '--images'])
def test_options_of_power_need_it(option):
    with pytest.raises(InputError, match=f'{option} goes with --power'):
        compare(['a', 'b', option, '1'])


def test_the_page_names_the_defaults():
    page = (ROOT / 'docs' / 'compare.md').read_text()
    assert '--power' in page and '0.3, 0.5 and 1.0' in page and '5,000' in page and '2,000' in page
