"""The regression on data whose truth is known, the selection of rows, and what is refused."""

import csv
from itertools import count

import numpy as np
import pytest

from mmbackbones.analysis.evidence.choices import METRICS
from mmbackbones.analysis.evidence.page import Selection, text
from mmbackbones.analysis.evidence.points import COLUMNS, NO_ACCURACY, Point, collect, mixer_class
from mmbackbones.analysis.evidence.regression import CONTRASTS, estimate, residuals
from mmbackbones.errors import InputError


def networks(offsets: dict[str, tuple[int, float]], slope: float = 1.5, rng=None, family_sd=0.0, sd=0.0) -> list[Point]:
    """Three networks for each family; class -> how many families, and how far above the line."""
    points, number = [], count()
    for mixer, (families, offset) in offsets.items():
        for _ in range(families):
            name = f'family{next(number)}'
            shift = rng.normal(0, family_sd) if rng else 0
            for size in range(3):
                top1 = 82 + 0.9 * size + 0.1 * (next(number) % 5)
                score = 46 + slope * (top1 - 83) + offset + shift + (rng.normal(0, sd) if rng else 0)
                points.append(Point(name, str(size), mixer, top1, score, 40 + 20 * size, None, '', 'here'))
    return points


def test_a_known_difference_is_found():
    points = networks({'conv': (4, 0.0), 'SSM': (3, 1.25), 'attention': (3, -0.5)})
    found = estimate(points, 'SSM against conv')
    assert found.value == pytest.approx(1.25) and found.slope == pytest.approx(1.5)
    assert (found.low, found.high) == (pytest.approx(1.25), pytest.approx(1.25)) and found.families == (3, 4)
    assert estimate(points, 'attention against conv').value == pytest.approx(-0.5)
    assert estimate(points, 'SSM against conv', 'params').value == pytest.approx(1.25)


@pytest.mark.parametrize('families', [(3, 5), (8, 6)])
def test_intervals_cover(families):
    """With families that go together, 95 % intervals hold the truth in at least nine cases of ten."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(150):
        offsets = {'conv': (families[0], 0.0), 'SSM': (families[1], 1.0), 'attention': (4, 0.0)}
        found = estimate(networks(offsets, rng=rng, family_sd=0.8, sd=0.4), 'SSM against conv')
        held.append(found.low <= 1.0 <= found.high)
    assert 0.90 <= np.mean(held) < 1


def test_families_left_out_bound_the_range():
    points = networks({'conv': (4, 0.0), 'SSM': (4, 1.0)})
    odd = [Point('odd', str(i), 'SSM', 82.0 + i, 52 + 1.5 * i, None, None, '', 'here') for i in range(3)]
    found = estimate([*points, *odd], 'SSM against conv')
    assert found.lowest == pytest.approx(1.0) and found.highest > found.value > 1.0


def test_few_families_get_no_interval():
    found = estimate(networks({'conv': (5, 0.0), 'SSM': (2, 1.0)}), 'SSM against conv')
    assert found.value is None and found.low is None
    assert found.reason.startswith('2 families of SSM (family') and found.reason.endswith('an interval needs 3')


def test_residuals_are_zero_on_the_line():
    assert np.allclose(residuals(networks({'conv': (3, 0.0), 'SSM': (3, 0.0)})), 0)


@pytest.mark.parametrize(
    ('token_mixer', 'expected'),
    [('conv', 'conv'), ('conv+ssm', 'SSM'), ('conv+ssm+attn', 'hybrid'), ('conv+ttt', 'linear attention')]
    + [('attn', 'attention'), ('conv+attn', 'hybrid'), ('wkv', 'linear attention')],
)
def test_classes(token_mixer, expected):
    assert mixer_class(token_mixer) == expected


@pytest.mark.parametrize('metric', METRICS)
def test_every_row_is_a_point_or_has_a_reason(metric):
    points, left = collect(metric)
    assert len({point.name for point in points}) == len(points) > 20
    assert all(point.source and 'top-1: ' in point.source for point in points)
    assert all(row.reason for row in left) and any(row.reason == NO_ACCURACY for row in left)
    assert not {point.name for point in points} & {row.name.rsplit(',', 1)[0] for row in left if 'top-1' in row.reason}
    plain, _ = collect(metric, only_plain=True)
    assert {p.name for p in plain} == {p.name for p in points if not p.extras}
    without, said = collect(metric, without=['VMamba'])
    assert {p.family for p in points} - {p.family for p in without} == {'VMamba'}
    assert any(row.reason == '--without' for row in said)


def own_rows(path, **changed):
    row = dict(family='Mine', variant='T', token_mixer='conv+ssm', top1='83.1', params_M='48', macs_G='270')
    row |= dict(schedule='1x (12 epochs)', source='logs of seed 0', AP_box='47.9') | changed
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, [*COLUMNS, 'AP_box'])
        writer.writeheader()
        writer.writerow(row)
    return path


def test_own_rows_take_part(tmp_path):
    before, _ = collect('AP_box')
    after, _ = collect('AP_box', more=own_rows(tmp_path / 'rows.csv'))
    assert [p.name for p in after[len(before) :]] == ['Mine T']


@pytest.mark.parametrize(
    ('changed', 'match'),
    [
        (dict(source=''), r'rows\.csv, line 2: Mine T has no source'),
        (dict(top1=''), r'rows\.csv, line 2: Mine T has no top1'),
        (dict(schedule=''), r'rows\.csv, line 2: Mine T has no schedule'),
        (dict(schedule='3x'), r"line 2: schedule '3x', expected '1x \(12 epochs\)'"),
        (dict(top1='high'), r"line 2: top1='high', expected a number"),
        (dict(top1='nan'), r"line 2: top1='nan', expected a number above 0"),
        (dict(token_mixer='magic'), r"line 2: token_mixer 'magic', expected some of conv"),
    ],
)
def test_bad_own_rows_are_refused(changed, match, tmp_path):
    with pytest.raises(InputError, match=match):
        collect('AP_box', more=own_rows(tmp_path / 'rows.csv', **changed))


@pytest.mark.parametrize(
    ('call', 'match'),
    [
        (lambda: collect('AP'), r"metric 'AP': expected one of AP_box"),
        (lambda: collect('AP_box', without=['Vmamba']), r'--without Vmamba: no such family; known: '),
        (lambda: estimate([], 'SSM'), r"contrast 'SSM': expected one of SSM against conv"),
        (lambda: estimate([], 'SSM against conv', 'depth'), r"covariate 'depth': expected one of none, params, macs"),
    ],
)
def test_unknown_names_are_refused(call, match):
    with pytest.raises(InputError, match=match):
        call()


def test_the_text_has_every_contrast_and_row():
    selection = Selection(metrics=('mIoU_ss',), without=('VMamba',))
    page = text(selection)
    assert all(contrast in page for contrast in CONTRASTS)
    assert all(f'| {point.name} |' in page for point in selection.points()['mIoU_ss'])
    assert all(row.name in page for row in selection.left_out('mIoU_ss'))


def test_rows_are_of_one_network_and_one_crop():
    """Rows that share a name with another network, or have another crop, are no points."""
    points, left = collect('mIoU_ss')
    found = {point.name: point.top1 for point in points}
    assert found['UniFormer B'] == 83.8  # what its dense models began with; with Layer Scale it has 83.9
    reasons = {row.name: row.reason for row in left}
    assert reasons['HorNet B, 160k'] == 'another crop than 512x512' and 'HorNet B' not in found
    assert reasons['ResNet 50 V1c, 160k'] == NO_ACCURACY  # not the ResNet 50 of the detectors
    assert 'HorNet S' in found
