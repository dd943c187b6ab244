"""Published dense results beside the ImageNet accuracy of the same network: the points of the regression."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbackbones.analysis.evidence.choices import METRICS
from mmbackbones.analysis.tables import read_csv
from mmbackbones.errors import InputError
from mmbackbones.zoo.published import CROP, RECIPES, TOKEN_MIXERS, PublishedRow, published_rows, row_of

CLASSES = ('conv', 'SSM', 'attention', 'linear attention', 'hybrid')
# Mixers of a fixed-size state that are no selective scan: linear in the tokens, as it is.
LINEAR = frozenset(('linear-attn', 'ttt', 'wkv'))
COLUMNS = ('family', 'variant', 'token_mixer', 'top1', 'params_M', 'macs_G', 'schedule', 'source')
NO_ACCURACY = 'no ImageNet top-1 at 224 px under this name in the published tables'


@dataclass(frozen=True)
class Point:
    """A network with its accuracy on ImageNet and its score in a dense task.

    Attributes:
        family, variant (str): as the source names the network.
        mixer (str): one of :data:`CLASSES`.
        top1 (float): ImageNet-1K top-1 at 224 px, percent.
        score (float): the dense metric, percent.
        params, macs (float | None): million parameters and G multiply-accumulates of the dense model, as published.
        extras (str): what the row has beyond the plain recipe; empty if nothing is known.
        source (str): sources of both figures.
    """

    family: str
    variant: str
    mixer: str
    top1: float
    score: float
    params: float | None
    macs: float | None
    extras: str
    source: str

    @property
    def name(self) -> str:
        return f'{self.family} {self.variant}'


@dataclass(frozen=True)
class LeftOut:
    """A published row that is no point, and why."""

    name: str
    reason: str


def mixer_class(token_mixer: str) -> str:
    """Class of a token mixer of the published tables, such as ``'conv+ssm'``.

    Attention beside anything else makes a hybrid. The convolution inside a Mamba block does not.
    """
    parts = set(token_mixer.split('+'))
    if 'attn' in parts:
        return 'attention' if len(parts) == 1 else 'hybrid'
    if 'ssm' in parts:
        return 'SSM'
    return 'linear attention' if parts & LINEAR else 'conv'


def collect(
    metric: str, without: Sequence[str] = (), only_plain: bool = False, more: Path | None = None
) -> tuple[list[Point], list[LeftOut]]:
    """Points of a metric, and the rows of its task that are none.

    Args:
        metric (str): one of :data:`METRICS`.
        without (Sequence[str]): families to leave out.
        only_plain (bool): leave out rows with anything beyond the plain pretraining and the plain 1x recipe.
        more (Path | None): a CSV of own rows with the columns :data:`COLUMNS` and the metric.

    Raises:
        InputError: an unknown metric or family, or a row of ``more`` without source, top-1 or schedule.
    """
    if metric not in METRICS:
        raise InputError(f'metric {metric!r}: expected one of {", ".join(METRICS)}')
    task, head = METRICS[metric]
    rows = [row for row in published_rows(task) if row.head == head and metric in row.metrics]
    known = {row.family for row in rows}
    for name in without:
        if name not in known:
            raise InputError(f'--without {name}: no such family; known: {", ".join(sorted(known))}')
    points, left = [], []
    for row in rows:
        accuracy = row_of('classification', row.family, row.variant)
        reason = _reason(row, accuracy, without, only_plain)
        if reason or accuracy is None:
            left.append(LeftOut(f'{row.name}, {row.recipe}', reason))
        else:
            points.append(_point(row, accuracy, metric))
    return points + (_own_points(more, metric) if more else []), left


def _reason(row: PublishedRow, accuracy: PublishedRow | None, without: Sequence[str], only_plain: bool) -> str:
    if row.recipe != RECIPES[row.task][1]:
        return f'another schedule than {RECIPES[row.task][1]}'
    if row.crop not in ('', CROP):
        return f'another crop than {CROP}'
    if accuracy is None:
        return NO_ACCURACY
    if row.family in without:
        return '--without'
    return f'not the plain recipe: {extras}' if only_plain and (extras := _extras(row, accuracy)) else ''


def _extras(row: PublishedRow, accuracy: PublishedRow) -> str:
    """The words of both rows; one network is pretrained once, whichever row says how."""
    words = [f'pretraining: {row.pretraining_extras or accuracy.pretraining_extras}', f'1x: {row.augmentation_1x}']
    return ', '.join(word for word in words if not word.endswith(': '))


def _point(row: PublishedRow, accuracy: PublishedRow, metric: str) -> Point:
    return Point(
        family=row.family,
        variant=row.variant,
        mixer=mixer_class(row.token_mixer),
        top1=accuracy.metrics['top1'],
        score=row.metrics[metric],
        params=row.params,
        macs=row.macs,
        extras=_extras(row, accuracy),
        source=f'{row.source}; top-1: {accuracy.source}',
    )


def _own_points(path: Path, metric: str) -> list[Point]:
    rows = read_csv(path)
    needed = {*COLUMNS, metric}
    if missing := needed - rows[0].keys() if rows else needed:
        raise InputError(f'{path}: no column {", ".join(sorted(missing))}')
    return [_own_point(row, f'{path}, line {number}', metric) for number, row in enumerate(rows, start=2)]


def _own_point(row: dict[str, str], place: str, metric: str) -> Point:
    for column in ('family', 'variant', 'token_mixer', 'top1', 'schedule', 'source', metric):
        if not row[column]:
            raise InputError(f'{place}: {row["family"]} {row["variant"]} has no {column}')
    expected = RECIPES[METRICS[metric][0]][1]
    if row['schedule'] != expected:
        raise InputError(f'{place}: schedule {row["schedule"]!r}, expected {expected!r}')
    unknown = set(row['token_mixer'].split('+')) - set(TOKEN_MIXERS)
    if unknown:
        raise InputError(f'{place}: token_mixer {row["token_mixer"]!r}, expected some of {", ".join(TOKEN_MIXERS)}')
    numbers = {column: _number(row[column], place, column) for column in ('top1', metric, 'params_M', 'macs_G')}
    top1, score = numbers['top1'], numbers[metric]
    assert top1 is not None and score is not None  # both cells are filled
    return Point(
        family=row['family'],
        variant=row['variant'],
        mixer=mixer_class(row['token_mixer']),
        top1=top1,
        score=score,
        params=numbers['params_M'],
        macs=numbers['macs_G'],
        extras='',
        source=row['source'],
    )


def _number(text: str, place: str, column: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise InputError(f'{place}: {column}={text!r}, expected a number') from None
    if not math.isfinite(value) or value <= 0:
        raise InputError(f'{place}: {column}={text!r}, expected a number above 0')
    return value
