"""The page of the evidence: its generated parts for docs, and the same as one text for any selection of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbackbones.analysis.evidence import show
from mmbackbones.analysis.evidence.choices import METRICS
from mmbackbones.analysis.evidence.lengths import trend
from mmbackbones.analysis.evidence.points import LeftOut, Point, collect


@dataclass(frozen=True)
class Selection:
    """Which published rows take part, as the options of ``tools/analysis/evidence.py`` say.

    Attributes:
        metrics (tuple[str, ...]): of :data:`mmbackbones.analysis.evidence.choices.METRICS`.
        without (tuple[str, ...]): families that are left out.
        only_plain (bool): whether rows beyond the plain recipe are left out.
        covariate (str): beside top-1: ``'none'``, ``'params'`` or ``'macs'``.
        more (Path | None): a CSV of own rows.
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    without: tuple[str, ...] = ()
    only_plain: bool = False
    covariate: str = 'none'
    more: Path | None = None

    def points(self) -> dict[str, list[Point]]:
        return {metric: self._collect(metric)[0] for metric in self.metrics}

    def left_out(self, metric: str) -> list[LeftOut]:
        return self._collect(metric)[1]

    def _collect(self, metric: str) -> tuple[list[Point], list[LeftOut]]:
        return collect(metric, self.without, self.only_plain, self.more)


def text(selection: Selection) -> str:
    """The whole evidence of a selection in Markdown."""
    points = selection.points()
    parts = ['# Published results at equal ImageNet accuracy', _bullets(show.sentences(points))]
    parts += ['## Differences', show.contrasts(points, selection.covariate)]
    parts += ['## Length of the sequence', lengths(points)]
    for metric in selection.metrics:
        parts += [f'## Points: {show.NAMES[metric]}', show.points_table({metric: points[metric]})]
        parts += [f'## Left out: {show.NAMES[metric]}', show.left_out(selection.left_out(metric))]
    return '\n\n'.join(part.strip('\n') for part in parts) + '\n'


def lengths(points: dict[str, list[Point]]) -> str:
    return show.lengths(points, {metric: trend(group) for metric, group in points.items()})


def _bullets(lines: Sequence[str]) -> str:
    return '\n'.join(f'* {line}' for line in lines)


def part(root: Path, name: str, *metric: str) -> str:
    """A generated part of ``docs/evidence.md``; the parts ``points`` and ``left-out`` are of some metrics."""
    usual = Selection()
    if name == 'sentences':
        return _bullets(show.sentences(usual.points()))
    if name == 'contrasts':
        return show.contrasts(usual.points())
    if name == 'robustness':
        return show.robustness(_variants())
    if name == 'lengths':
        return lengths(usual.points())
    if name == 'points':
        return show.points_table({name: usual.points()[name] for name in metric})
    if name == 'left-out':
        return show.left_out(usual.left_out(metric[0]))
    raise KeyError(name)


def _variants() -> dict[str, tuple[dict[str, list[Point]], str]]:
    usual, plain = Selection(), Selection(only_plain=True)
    without = {f'without {name}': Selection(without=(name,)) for name in ('VMamba', 'MambaOut')}
    found = {'all rows': (usual.points(), 'none'), 'only the plain recipe': (plain.points(), 'none')}
    found |= {name: (selection.points(), 'none') for name, selection in without.items()}
    return found | {f'all rows, log {name}': (usual.points(), name) for name in ('params', 'macs')}
