"""The answer on top, and which pictures a report shows, from small made-up results."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mmbackbones.analysis.compare.comparison import Comparison, Difference
from mmbackbones.analysis.report.answer import answer
from mmbackbones.analysis.report.pictures import fullest_first
from mmbackbones.analysis.report.results import differences
from mmbackbones.evaluation.predictions import FinishedRun


def difference(arm, gap, p, about='checkpoints', metric='mIoU'):
    seeds = 3 if about == 'methods' else 1
    ends, runs = (gap - 1, gap + 1, p, p), ([70 + gap] * seeds, [70.0] * seeds)
    return Difference(
        metric, 'all', 'all', arm, 'mambaout', 70 + gap, 70.0, gap, *ends, 50, about, seeds, *runs, seeds, seeds
    )


def data(*rows, scores=()):
    comparisons = [Comparison([], list(rows), [], [], 100, 0)] if rows else []
    return SimpleNamespace(comparisons=comparisons, scores=scores)


@pytest.mark.parametrize(
    ('rows', 'parts'),
    [
        (
            [difference('vmamba', 2.0, 0.01)],
            ['vmamba against mambaout: mIoU +2.00 points (95 % interval +1.00 to +3.00); ']
            + ['; more than the choice of test images explains.']
            + ['fewer than 3 seeds per arm this speaks of these checkpoints, not of the methods'],
        ),
        ([difference('vmamba', 0.1, 0.8)], ['; no difference is shown.']),
        ([difference('vmamba', 2.0, 0.01, metric='box AP'), difference('vmamba', 0, 1)], ['in box AP alone.']),
        (
            [difference('a', 2.0, 0.01), difference('b', -2.0, 0.01), difference('c', 0.1, 0.9)],
            ['3 networks against mambaout: in mIoU 1 are higher and 1 lower', 'a the highest with +2.00 points'],
        ),
        ([], ['No run has predictions to score']),
    ],
    ids=['difference', 'none shown', 'one metric', 'several arms', 'nothing'],
)
def test_answer(rows, parts):
    assert all(part in answer(data(*rows)) for part in parts)


def test_answer_about_methods_does_not_speak_of_checkpoints():
    assert 'checkpoints' not in answer(data(difference('vmamba', 2.0, 0.01, about='methods')))


def test_answer_without_a_pair():
    text = answer(data(scores=[SimpleNamespace(name='vim')]))
    assert text.startswith('One network was scored, but no two runs may be compared')


def test_a_p_value_stands_beside_methods_alone():
    def column(about):
        table = differences(data(difference('vmamba', 2.0, 0.01, about)).comparisons).blocks[0]
        header, rows = table.shown()
        return rows[0][header.index('p (Holm)')] if 'p (Holm)' in header else None

    assert column('checkpoints') is None and column('methods') == '0.01'


def test_sections_without_content_have_no_blocks():
    assert not differences([]).blocks


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_pictures_of_full_images_come_first(tmp_path, task):
    crowd, two, empty = 'a', 'b', 'c'
    truth = dict(
        images=[dict(id=place, file_name=f'{name}.jpg') for place, name in enumerate((crowd, two, empty))],
        annotations=[dict(image_id=0, iscrowd=1), dict(image_id=1, iscrowd=0), dict(image_id=1)],
        categories=[],
    )
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    label = np.array([[9, 0, 0], [5, 2, 2], [9, 0, 0]])
    np.savez(tmp_path / 'areas.npz', image_ids=[crowd, two, empty], label=label)
    record = dict(task=task, settings=dict(test_evaluator=dict(ann_file=str(tmp_path / 'truth.json'))))
    run = FinishedRun(tmp_path, tmp_path, record)
    pictures = [tmp_path / f'test_{name}.jpg_7.png' for name in (crowd, two, empty)]
    assert fullest_first(pictures, [run])[0].name == 'test_b.jpg_7.png'
    assert fullest_first(pictures, []) == pictures
