"""Token counts as table, figure, CSV and record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from rich.table import Table

from mmbackbones.analysis.figures import new_figure
from mmbackbones.analysis.records import config_record
from mmbackbones.analysis.tables import rich_table, write_csv
from mmbackbones.analysis.tokens.count import (
    IMAGENET,
    PAPER_PATCH,
    PAPER_SHAPES,
    PAPER_WIDTHS,
    Sizes,
    StageTokens,
    count_tokens,
    network_sizes,
    ratio,
    stages_of,
)
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.zoo.published import network_and_task

QUANTILES = {'min': 0.0, 'p5': 0.05, 'median': 0.5, 'p95': 0.95, 'max': 1.0}
COLUMNS = (
    'data',
    'network',
    'stage',
    'stride',
    'channels',
    'images',
    'mean',
    *QUANTILES,
    'threshold_6D',
    'r_median',
    'long_share',
)


@dataclass(frozen=True)
class TokenReport:
    """Token counts of one network on one data set.

    Attributes:
        network (str): stem of the config, or patch and width in the paper.
        data (str): description of data set, split and pipeline.
        task (str): ``'detection'``, ``'segmentation'`` or ``'classification'``.
        sizes (Sizes): sizes of the images.
        stages (list[StageTokens]): tokens of each stage.
    """

    network: str
    data: str
    task: str
    sizes: Sizes
    stages: list[StageTokens]

    def rows(self) -> list[dict[str, object]]:
        """The :data:`COLUMNS`, one row per stage."""
        return [
            dict(
                data=self.data,
                network=self.network,
                stage=stage.stage,
                stride=stage.stride,
                channels=stage.channels,
                images=round(stage.weight.sum()),
                mean=stage.mean,
                **{name: stage.quantile(q) for name, q in QUANTILES.items()},
                threshold_6D=stage.threshold,
                r_median=ratio(stage.quantile(0.5), stage.channels),
                long_share=stage.long_share,
            )
            for stage in self.stages
        ]


def report_config(cfg: Config, network: str, split: str = 'test') -> list[TokenReport]:
    """Token counts of a config on its data set, and on ImageNet at 224x224 px.

    Raises:
        InputError: as :func:`network_sizes` and :func:`stages_of`.
    """
    stages, sizes = stages_of(cfg), network_sizes(cfg, split)
    data = f'{cfg[f"{split}_dataloader"].dataset.type.removesuffix("Dataset")} {split}'
    imagenet = Sizes.of([IMAGENET])
    return [
        TokenReport(network, data, dense_task_of(cfg), sizes, count_tokens(sizes, stages)),
        TokenReport(network, 'ImageNet 224x224', 'classification', imagenet, count_tokens(imagenet, stages)),
    ]


def report_sizes(cfg: Config, network: str, sides: Sequence[int]) -> list[TokenReport]:
    """Token counts of a config's backbone on square images of these sides in pixels; no data set is read.

    Raises:
        InputError: as :func:`stages_of`.
    """
    stages, squares = stages_of(cfg), [Sizes.of([(side, side)]) for side in sides]
    return [
        TokenReport(network, f'{side}x{side} px', dense_task_of(cfg), sizes, count_tokens(sizes, stages))
        for side, sizes in zip(sides, squares)
    ]


def paper_reports() -> list[TokenReport]:
    """Counts of the MambaOut paper: patches of 16 px, one image size per data set, the widths of ViT-S and ViT-B."""
    return [
        TokenReport(
            f'patch {PAPER_PATCH}, D = {width}',
            f'{name} {h}x{w}',
            'classification',
            Sizes.of([(h, w)]),
            count_tokens(Sizes.of([(h, w)]), [(PAPER_PATCH, width)]),
        )
        for width in PAPER_WIDTHS
        for name, (h, w) in PAPER_SHAPES.items()
    ]


def write_reports(path: str | Path, reports: Sequence[TokenReport]) -> None:
    """One line per network, data set and stage by :data:`COLUMNS`.

    Raises:
        InputError: the file cannot be written.
    """
    write_csv(path, COLUMNS, [row for report in reports for row in report.rows()], '.4g')


def table(reports: Sequence[TokenReport]) -> Table:
    """The reports for the terminal."""
    columns = ('data', 'network', 'stage', 'stride', 'D', 'tokens L: 5 %', 'median', '95 %', '6 D', 'r, median', 'long')
    rows = [
        [
            row['data'],
            _network(row['network']),
            *(row[key] for key in ('stage', 'stride', 'channels', 'p5', 'median', 'p95', 'threshold_6D')),
            f'{row["r_median"]:.2f}',
            f'{100 * row["long_share"]:.0f} %',
        ]
        for report in reports
        for row in report.rows()
    ]
    return rich_table(columns, rows)


def _network(config: str) -> str:
    """Name of the network if the config's name has the form of ours, else the whole name."""
    try:
        return network_and_task(config)[0]
    except InputError:
        return config


def draw(reports: Sequence[TokenReport], task: str) -> Figure:
    """Histograms of r = L / (6 D) per stage, one panel per network of a task, with a mark at ImageNet's r."""
    chosen = [report for report in reports if report.task == task]
    marks = {report.network: report for report in reports if report.data.startswith('ImageNet')}
    figure = new_figure(9, 0.8 + 1.9 * len(chosen))
    axes = figure.subplots(len(chosen), 1, squeeze=False, sharex=True)[:, 0]
    ends = [r for report in chosen for stage in report.stages for r in ratio(stage.tokens[[0, -1]], stage.channels)]
    ends += [ratio(stage.tokens[0], stage.channels) for report in marks.values() for stage in report.stages]
    edges = np.geomspace(min(ends) / 1.3, max(ends) * 1.3, 80)
    for axis, report in zip(axes, chosen):
        for stage in report.stages:
            r, color = ratio(stage.tokens, stage.channels), f'C{stage.stage - 1}'
            label = f'stage {stage.stage}: stride {stage.stride}, D = {stage.channels}'
            axis.hist(r, edges, weights=stage.weight / stage.weight.sum(), color=color, alpha=0.7, label=label)
            if report.network in marks:
                mark = marks[report.network].stages[stage.stage - 1]
                axis.axvline(ratio(mark.tokens[0], mark.channels), color=color, linestyle=':', linewidth=1.5)
        axis.axvline(1, color='black', linewidth=1)
        axis.set(xscale='log', ylabel='share of images')
        axis.set_title(f'{report.network}, {report.data}', fontsize='small')
        axis.legend(fontsize='x-small', loc='center left', bbox_to_anchor=(1, 0.5))
    axes[-1].set_xlabel('r = L / (6 D); long beyond the line at 1; dotted: ImageNet at 224x224 px')
    return figure


def record_of(cfg: Config, config: str, report: TokenReport, split: str) -> dict:
    """A record of kind ``'tokens'`` (see :mod:`mmbackbones.evaluation.records`)."""
    metrics = {
        f'stage{row["stage"]}.{key}': value
        for row in report.rows()
        for key, value in row.items()
        if key not in ('data', 'network', 'stage')
    }
    return config_record('tokens', cfg, config, metrics, split=split, data_fingerprint=report.sizes.fingerprint)
