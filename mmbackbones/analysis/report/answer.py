"""The answer on top of the report: what was compared, the difference, its interval, and what can be concluded."""

from collections.abc import Sequence

import numpy as np

from mmbackbones.analysis.compare.comparison import Comparison, Difference
from mmbackbones.analysis.compare.show import LEVEL
from mmbackbones.analysis.report.gather import ReportData
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS


def answer(data: ReportData) -> str:
    """One or two sentences for every comparison; without one, why nothing can be concluded."""
    sentences = [_of(comparison) for comparison in data.comparisons]
    if sentences:
        return ' '.join(filter(None, sentences))
    if data.scores:
        networks = len({score.name for score in data.scores})
        scored = 'One network was' if networks == 1 else f'{networks} networks were'
        return f'{scored} scored, but no two runs may be compared, so nothing can be concluded about a difference.'
    return 'No run has predictions to score, so nothing can be concluded about scores.'


def _of(comparison: Comparison) -> str:
    rows = [row for row in comparison.differences if row.split == 'all' and not np.isnan(row.difference)]
    if not rows:
        return ''
    arms = list(dict.fromkeys(row.arm for row in rows))
    text = _pair(arms[0], rows) if len(arms) == 1 else _many(arms, rows)
    if all(row.about == 'methods' for row in rows):
        return text
    return (
        f'{text} With fewer than {SEEDS_FOR_METHODS} seeds per arm this speaks of these checkpoints, not of the '
        'methods: other seeds may give another difference.'
    )


def _pair(arm: str, rows: Sequence[Difference]) -> str:
    differences = ', '.join(
        f'{row.metric} {row.difference:+.2f} points (95 % interval {row.low:+.2f} to {row.high:+.2f})' for row in rows
    )
    found, chance = [row.metric for row in rows if row.p_holm < LEVEL], _chance(rows)
    if len(found) == len(rows):
        verdict = f'more than {chance} explains'
    elif found:
        verdict = f'more than {chance} explains in {", ".join(found)} alone'
    else:
        verdict = 'no difference is shown'
    return f'{arm} against {rows[0].reference}: {differences}; {verdict}.'


def _many(arms: Sequence[str], rows: Sequence[Difference]) -> str:
    parts = []
    for metric in dict.fromkeys(row.metric for row in rows):
        judged = [row for row in rows if row.metric == metric]
        best = max(judged, key=lambda row: row.difference)
        higher = sum(row.p_holm < LEVEL and row.difference > 0 for row in judged)
        lower = sum(row.p_holm < LEVEL and row.difference < 0 for row in judged)
        parts.append(
            f'in {metric} {higher} are higher and {lower} lower by more than {_chance(rows)} explains '
            f'(after Holm), '
            f'{best.arm} the highest with {best.difference:+.2f} points '
            f'(95 % interval {best.low:+.2f} to {best.high:+.2f})'
        )
    return f'{len(arms)} networks against {rows[0].reference}: {"; ".join(parts)}.'


def _chance(rows: Sequence[Difference]) -> str:
    return f'the choice of {"seeds and images" if all(row.about == "methods" for row in rows) else "test images"}'
