"""Write figures to files. No display is needed, and the same data gives the same bytes."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmbackbones.analysis.tables import write_file

MARKERS = 'osD^v<>PXhd*p'
DPI = 150


def new_figure(width: float = 7, height: float = 4) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), layout='constrained')


def plot_interval(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    label: str,
    number: int = 0,
) -> None:
    """Plot a curve with its intervals; ``number`` selects the marker."""
    # An end of a bootstrap interval may lie a rounding error beyond the value.
    below = [max(0.0, value - end) for value, end in zip(y, low)]
    above = [max(0.0, end - value) for value, end in zip(y, high)]
    axes.errorbar(x, y, yerr=(below, above), marker=MARKERS[number % len(MARKERS)], capsize=3, label=label)


def save(figure: Figure, stem: Path, formats: Sequence[str] = ('png', 'svg')) -> list[Path]:
    """Write a figure as ``stem`` with the ending of each format; text in an SVG stays text.

    Raises:
        InputError: a file cannot be written.
    """
    paths = []
    with matplotlib.rc_context({'svg.hashsalt': 'mmbackbones', 'svg.fonttype': 'none'}):
        for ending in formats:
            data = io.BytesIO()
            figure.savefig(data, format=ending, dpi=DPI, metadata={'Date': None} if ending == 'svg' else None)
            paths.append(stem.with_name(f'{stem.name}.{ending}'))
            write_file(paths[-1], data.getvalue())
    return paths
