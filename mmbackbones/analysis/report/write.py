"""Gather and render the report."""

from collections.abc import Sequence
from pathlib import Path

from mmbackbones.analysis.report import results, sequences
from mmbackbones.analysis.report.answer import answer
from mmbackbones.analysis.report.gather import ReportData, gather
from mmbackbones.analysis.report.page import Section, write_page
from mmbackbones.analysis.report.published import published
from mmbackbones.evaluation.environment import environment

TITLE = 'Visual Mamba on dense prediction'


def write_report(folders: Sequence[str | Path], out: str | Path, resamples: int = 1000, seed: int = 0) -> Path:
    """Write a report on all runs in some work dirs.

    Args:
        folders: work dirs, or folders that hold some.
        out: folder of the report; an earlier report there is replaced.
        resamples: of every bootstrap.
        seed: of its draws.

    Returns:
        Path: the page.

    Raises:
        InputError: there is nothing to report on, or ``out`` is not a report or cannot be written.
    """
    data = gather(folders, resamples, seed)
    return write_page(out, TITLE, answer(data), render(data), footer(data))


def render(data: ReportData) -> list[Section]:
    """The sections of the page in reading order. Those without content have no blocks, and the page no heading."""
    return [
        results.results(data.scores),
        results.differences(data.comparisons),
        results.predictions(data),
        sequences.against_tokens(data),
        sequences.cost(data.timings),
        results.controlled(data.scores),
        sequences.long_range(data.long_range),
        published(data.published),
        results.limits(data),
        results.who_ran(data),
    ]


def footer(data: ReportData) -> str:
    """Data, code and date of the page."""
    made = environment()
    return (
        f'Made from {data.records} records and {len(data.runs)} sets of predictions; bootstrap of '
        f'{data.resamples} resamples, seed {data.seed}; mmbackbones at commit {made["commit"]}, {made["date"]}.'
    )
