"""Tables and sentences of the evidence, in Markdown."""

from collections import Counter
from collections.abc import Sequence

from mmbackbones.analysis.evidence.lengths import OF_METRIC, PIXELS, Trend, ratio, with_widths
from mmbackbones.analysis.evidence.points import CLASSES, LeftOut, Point
from mmbackbones.analysis.evidence.regression import CONTRASTS, Estimate, estimate
from mmbackbones.analysis.tables import markdown_table

NAMES = {'AP_box': 'box AP', 'AP_mask': 'mask AP', 'mIoU_ss': 'mIoU'}
TASKS = {'AP_box': 'COCO, Mask R-CNN 1x', 'AP_mask': 'COCO, Mask R-CNN 1x', 'mIoU_ss': 'ADE20K, UperNet 160k'}


def interval(found: Estimate | Trend) -> str:
    """``+1.9 [+0.3, +3.6]``, or why there is none."""
    if found.value is None or found.low is None or found.high is None:
        return found.reason
    return f'{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]'


CONTRASTS_HEAD = ['metric', 'at equal top-1', 'difference [95 %]', 'one family left out', 'families', 'rows']


def contrasts(points: dict[str, list[Point]], covariate: str = 'none') -> str:
    """A table: every contrast of every metric, with its interval, the leave-one-family-out range and its families."""
    return markdown_table(CONTRASTS_HEAD, contrast_rows(points, covariate))


def contrast_rows(points: dict[str, list[Point]], covariate: str = 'none') -> list[list[str]]:
    """The rows of :func:`contrasts`."""
    lines = []
    for metric, group in points.items():
        for contrast in CONTRASTS:
            found = estimate(group, contrast, covariate)
            spread = '' if found.lowest is None else f'{found.lowest:+.1f} to {found.highest:+.1f}'
            families = f'{found.families[0]} / {found.families[1]}'
            lines.append([NAMES[metric], contrast, interval(found), spread, families, str(found.rows)])
    return lines


def robustness(variants: dict[str, tuple[dict[str, list[Point]], str]]) -> str:
    """A table: SSM against conv and against all others under each choice of rows and covariate, and their sum."""
    lines, told_apart = [], Counter[str]()
    for name, (points, covariate) in variants.items():
        for metric, group in points.items():
            found = [estimate(group, contrast, covariate) for contrast in list(CONTRASTS)[:2]]
            lines.append([name, NAMES[metric], *map(interval, found)])
            told_apart[NAMES[metric]] += found[0].low is not None and not found[0].low <= 0 <= found[0].high
    table = markdown_table(['rows and covariate', 'metric', *list(CONTRASTS)[:2]], lines)
    counts = ', '.join(f'{name} in {count} of {len(variants)}' for name, count in told_apart.items())
    return f'{table}\nSSM and convolutional networks are told apart by {counts} selections.'


def lengths(points: dict[str, list[Point]], trends: dict[str, Trend]) -> str:
    """A table: L / 6 D in each task, the advantage of SSM there, and how it changes with L / 6 D within the task."""
    places = list(PIXELS)
    widths = [width for group in points.values() for _, width in with_widths(group)]
    lines = [[places[0], _range(widths, places[0]), 'none by construction', '', '']]
    for metric, group in points.items():
        found = estimate(group, 'SSM against conv')
        worth = ''
        if found.value is not None and found.slope:
            worth = f'{found.value / found.slope:+.1f}'
        of_task = [width for _, width in with_widths(group)]
        place = OF_METRIC[metric]
        lines.append(
            [f'{place}, {NAMES[metric]}', _range(of_task, place), interval(found), worth, interval(trends[metric])]
        )
    head = ['task', 'L / 6 D', 'SSM against conv [95 %]', 'in points of top-1', 'more where L / 6 D doubles [95 %]']
    return markdown_table(head, lines)


def _range(widths: Sequence[int], place: str) -> str:
    ratios = sorted(ratio(width, place) for width in widths)
    return f'{ratios[0]:.2f} to {ratios[-1]:.2f}' if ratios else ''


def classes(points: Sequence[Point]) -> str:
    """``9 conv, 10 SSM``: rows by class."""
    count = Counter(point.mixer for point in points)
    return ', '.join(f'{count[name]} {name}' for name in CLASSES if count[name])


def points_table(points: dict[str, list[Point]]) -> str:
    """Every point of some metrics with its sources. A network that has no score by a later metric has an empty cell."""
    first, *others = points.values()
    scores = [{p.name: p.score for p in group} for group in (first, *others)]
    lines = [
        [
            p.name,
            p.mixer,
            f'{p.top1:.1f}',
            *(f'{by[p.name]:.1f}' if p.name in by else '' for by in scores),
            p.extras,
            p.source,
        ]
        for p in sorted(first, key=lambda p: (CLASSES.index(p.mixer), p.family, p.top1))
    ]
    head = ['network', 'class', 'top-1', *(NAMES[metric] for metric in points), 'beyond the plain recipe', 'sources']
    return markdown_table(head, lines)


def left_out(rows: Sequence[LeftOut]) -> str:
    """The rows that are no points, gathered by their reason."""
    reasons = dict.fromkeys(row.reason for row in rows)
    lines = [[reason, ', '.join(row.name for row in rows if row.reason == reason)] for reason in reasons]
    return markdown_table(['why', 'rows'], lines)


def sentences(points: dict[str, list[Point]]) -> list[str]:
    """What the contrasts say, one sentence per metric."""
    said = []
    for metric, group in points.items():
        found = estimate(group, 'SSM against conv')
        others = estimate(group, 'SSM against all others')
        if found.value is None or found.low is None or found.high is None:
            said.append(f'{TASKS[metric]}: no interval of {NAMES[metric]} ({found.reason}).')
            continue
        verdict = _verdict(found.low, found.high)
        said.append(
            f'{TASKS[metric]}: at equal ImageNet accuracy, SSM networks {verdict} convolutional ones: '
            f'{interval(found)} {NAMES[metric]} ({found.families[0]} and {found.families[1]} families); against all '
            f'other classes {interval(others)}.'
        )
    return said


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return 'score above'
    return 'score below' if high < 0 else 'are not told apart from'
