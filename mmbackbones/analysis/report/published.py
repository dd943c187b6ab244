"""The report's section on published results, which says the same as ``docs/evidence.md``."""

from mmbackbones.analysis.evidence.figure import draw
from mmbackbones.analysis.evidence.points import Point
from mmbackbones.analysis.evidence.show import CONTRASTS_HEAD, contrast_rows, sentences
from mmbackbones.analysis.report.page import Figure, Section, Table

CAUTION = (
    'This is an association over rows that their authors published, not an experiment, and no run above takes part in '
    'it. docs/evidence.md names every row, its source, and what was left out.'
)


def published(points: dict[str, list[Point]]) -> Section:
    """Published scores at equal ImageNet accuracy: sentences, differences between classes of mixers, and the figure."""
    table = Table(
        'published-differences',
        'Published scores at equal ImageNet top-1, by class of the token mixer.',
        CONTRASTS_HEAD,
        contrast_rows(points),
    )
    figure = Figure(
        'published',
        'Published dense scores against ImageNet top-1, and the residuals of the common line.',
        'On the left scores against top-1, one colour for each class of token mixers and a line for each family; '
        'on the right the distance of each network from the common line, by class.',
        draw(points),
    )
    return Section('Published results', [*sentences(points), CAUTION, table, figure])
