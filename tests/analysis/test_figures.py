"""Figures need no display, and the same data gives the same bytes."""

import pytest

from mmbackbones.analysis.figures import new_figure, plot_interval, save
from mmbackbones.errors import InputError


def figure():
    canvas = new_figure()
    axes = canvas.subplots()
    plot_interval(axes, [1, 2], [0.5, 0.6], [0.4, 0.6 + 1e-12], [0.5 - 1e-12, 0.7], 'a mixer', 1)
    axes.legend()
    return canvas


def test_files_repeat(tmp_path):
    first, again = (save(figure(), tmp_path / name / 'v1.5_curve') for name in ('a', 'b'))
    assert [path.name for path in first] == ['v1.5_curve.png', 'v1.5_curve.svg']
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert '>a mixer<' in first[1].read_text()  # text stays text


def test_ends_within_a_rounding_error_are_no_error():
    (container,) = figure().axes[0].containers
    (bars,) = container.lines[2]
    assert bars.get_segments()[1][0][1] == pytest.approx(0.6)  # the lower end does not rise above the value


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'curve\.png: cannot be written'):
        save(figure(), tmp_path / 'file' / 'curve')
