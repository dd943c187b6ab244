"""The figure of the docs shows the points of the data."""

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from mmbackbones.analysis.evidence.choices import METRICS
from mmbackbones.analysis.evidence.figure import draw
from mmbackbones.analysis.evidence.points import CLASSES, collect
from mmbackbones.analysis.figures import save
from tests.conftest import ROOT

SVG = '{http://www.w3.org/2000/svg}'


def drawn(path):
    """Markers of each panel, class by class, at their places: [[(x, y), ...] for each class] for each panel."""
    panels = []
    root = ElementTree.parse(path).getroot()
    for axes in root.iter(f'{SVG}g'):
        if axes.get('id', '').startswith('axes_'):
            groups = [group for group in axes if group.get('id', '').startswith('PathCollection')]
            panels.append([[(float(u.get('x')), -float(u.get('y'))) for u in g.iter(f'{SVG}use')] for g in groups])
    return panels


def assert_shows(path, points):
    panels = drawn(path)
    assert len(panels) == 2 * len(points)
    for (metric, group), scores, beside in zip(points.items(), panels[::2], panels[1::2]):
        by_class = [[point for point in group if point.mixer == mixer] for mixer in CLASSES]
        for panel in (scores, beside):
            assert [len(markers) for markers in panel] == [len(of) for of in by_class], metric
        for axis, values in enumerate(('top1', 'score')):
            wanted = np.array([getattr(point, values) for of in by_class for point in of])
            places = np.array([marker[axis] for markers in scores for marker in markers])
            slope, start = np.polyfit(wanted, places, 1)
            assert slope > 0
            np.testing.assert_allclose(places, start + slope * wanted, atol=0.01 * slope, err_msg=f'{metric}: {values}')


def test_the_figure_of_the_docs_is_up_to_date():
    """Redraw it by tools/analysis/evidence.py; any version of the library that draws will do."""
    assert_shows(ROOT / 'docs' / 'figures' / 'evidence.svg', {metric: collect(metric)[0] for metric in METRICS})


def test_a_point_that_moved_is_seen(tmp_path):
    points = {'AP_box': collect('AP_box')[0]}
    (path,) = save(draw(points), tmp_path / 'figure', ('svg',))
    assert_shows(path, points)
    group = sorted(points['AP_box'], key=lambda point: point.top1)
    one = next(a for a, b in pairwise(group) if a.mixer == b.mixer)
    moved = [type(p)(**{**vars(p), 'top1': p.top1 + 0.1}) if p is one else p for p in points['AP_box']]
    for other in (moved, [p for p in points['AP_box'] if p is not one]):
        with pytest.raises(AssertionError):
            assert_shows(path, {'AP_box': other})
