"""Effective receptive fields as figures, as arrays and as numbers."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmbackbones.analysis.figures import new_figure
from mmbackbones.analysis.receptive_field.measure import Field

DECADES = 4  # of the logarithmic scale: what is weaker than 1e-4 of the strongest pixel is drawn as nothing
PANEL = 2.2  # inches
SHARES = (0.5, 0.99)
COLUMNS = ('network', 'stage', 'map', 'pixels seen', *(f'area with {share:.0%}' for share in SHARES))


def draw(fields: Mapping[str, Sequence[Field]], at: tuple[float, float], image: np.ndarray | None = None) -> Figure:
    """Draw one row per network and one column per stage.

    Args:
        fields: of each network, by its name.
        at: x and y of the point, in pixels of the fields; marked in every panel.
        image: [H, W, 3] uint8 RGB of the fields' size, drawn below them in grey.
    """
    wide = max(map(len, fields.values()))
    any_field = next(iter(fields.values()))[0].values
    ratio = any_field.shape[0] / any_field.shape[1]
    figure = new_figure(PANEL * wide + 0.6, (PANEL * ratio + 0.35) * len(fields) + 0.2)
    grid = figure.subplots(len(fields), wide, squeeze=False)
    for (name, row), axes in zip(fields.items(), grid):
        for place in axes:
            place.set_axis_off()
        for field, place in zip(row, axes):
            place.set_axis_on()
            _panel(place, field, at, image)
            height, width = field.map_size
            place.set_title(f'stage {field.stage}, map {width}x{height}', fontsize=8)
        axes[0].set_ylabel('\n'.join(textwrap.wrap(name.replace('_', '_ '), 28)).replace('_ ', '_'), fontsize=7)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image, [H, W, 3] uint8 RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def strength(values: np.ndarray, decades: float = DECADES) -> np.ndarray:
    """The logarithm of a field, from 0 (weaker than ``10 ** -decades`` of the strongest pixel) to 1 (the strongest)."""
    strongest = values.max()
    if strongest == 0:
        return np.zeros_like(values)
    return 1 + np.log10(np.maximum(values / strongest, 10.0**-decades)) / decades


def facts(name: str, field: Field) -> tuple[object, ...]:
    """A row of the table with ``COLUMNS``."""
    height, width = field.map_size
    areas = (f'{field.area(share):.1%}' for share in SHARES)
    return (name, field.stage, f'{width}x{height}', f'{field.seen:.1%}', *areas)


def arrays(fields: Mapping[str, Sequence[Field]]) -> dict[str, np.ndarray]:
    """The values of all fields by ``NETWORK/STAGE``, for ``numpy.savez``."""
    return {f'{name}/{field.stage}': field.values for name, row in fields.items() for field in row}


def _panel(axes: Axes, field: Field, at: tuple[float, float], image: np.ndarray | None) -> None:
    heat = strength(field.values)
    if image is None:
        axes.imshow(heat, cmap='magma', vmin=0, vmax=1, interpolation='nearest')
    else:
        axes.imshow(image.mean(2), cmap='gray', vmin=0, vmax=255)
        axes.imshow(heat, cmap='magma', vmin=0, vmax=1, alpha=0.25 + 0.65 * heat, interpolation='nearest')
    axes.plot(*at, '+', color='cyan', markersize=8, markeredgewidth=1.5)
    axes.set_xticks([])
    axes.set_yticks([])
