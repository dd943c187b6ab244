"""The results table: rows, columns and tables of the results of :mod:`mmbackbones.analysis.compare.collect`."""

from dataclasses import dataclass, field
from pathlib import Path

from mmbackbones.evaluation.metric_names import key_of, main_metrics, percent
from mmbackbones.zoo.published import Match

PUBLISHED = {'box AP': 'AP_box', 'mask AP': 'AP_mask', 'mIoU': 'mIoU_ss', 'mIoU multi-scale': 'mIoU_ms'}
SCORES = tuple(PUBLISHED)
COLUMNS = (
    'table',
    'config',
    'arm',
    'recipe',
    'seed',
    *SCORES,
    *(f'published {name}' for name in SCORES),
    'params (M)',
    'published params (M)',
    'MACs (G)',
    'published MACs (G)',
    'training (h)',
    'iterations',
    'precision',
    'device',
    'commit',
    'date',
    'published row',
    'source',
    'remarks',
    'work dir',
)


@dataclass
class Result:
    """A finished run: scores of its last checkpoint at one scale, and at several scales if these were tested.

    Attributes:
        work_dir (Path): work dir of the run.
        record (dict): record of the training, or of the test if the weights are from elsewhere.
        multi_scale (dict | None): record of the multi-scale test.
        macs (float | None): G multiply-accumulates, if the work dir has a record of the config's complexity.
        published (Match): the published result to which it is compared.
        remarks (list[str]): remarks for the reader.
    """

    work_dir: Path
    record: dict
    multi_scale: dict | None
    macs: float | None
    published: Match
    remarks: list[str]

    def row(self, table: int, digits: str = '.1f') -> dict[str, str]:
        """Texts by ``COLUMNS`` and by the names of other metrics; ``digits`` are those of the scores."""
        record, row = self.record, self.published.row
        scores = _scores({} if record.get('tta') else record['metrics'])
        if self.multi_scale:
            scores |= _scores(self.multi_scale['metrics'], ' multi-scale')
        seconds = None if record.get('resumed') else record.get('train_seconds')
        published = row.metrics if row else {}
        return {
            key: '' if value is None else str(value)
            for key, value in dict(
                dict.fromkeys(COLUMNS, ''),
                table=table,
                config=Path(record['config']).stem,
                arm=record.get('arm'),
                recipe=record['recipe'],
                seed=record['seed'],
                **{name: format(score, digits) for name, score in scores.items()},
                **{f'published {name}': published.get(key) for name, key in PUBLISHED.items()},
                **{
                    'params (M)': f'{record["params"] / 1e6:.1f}' if 'params' in record else None,
                    'published params (M)': row and row.params,
                    'MACs (G)': None if self.macs is None else f'{self.macs:.1f}',
                    'published MACs (G)': row and row.macs,
                    'training (h)': None if seconds is None else f'{seconds / 3600:.2f}',
                    'published row': row and row.name,
                    'work dir': self.work_dir,
                },
                iterations=record.get('iterations'),
                precision=record['precision'],
                device=record['device'],
                commit=record['commit'],
                date=record['date'][:10],
                source=row and row.source,
                remarks='; '.join(self.remarks + ([] if scores else ['no score is recorded'])),
            ).items()
        }


@dataclass
class Results:
    """Results of all work dirs.

    Attributes:
        tables (list[list[Result]]): comparable runs, table by table.
        apart (list[str]): for each further table, why its runs are not in an earlier one.
        left_out (dict[Path, str]): work dirs without a row, with the reason.
        notes (list[str]): other differences within a table, such as the device, and lines that are not records.
    """

    tables: list[list[Result]] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def columns(self) -> list[str]:
        """``COLUMNS``, with the other metrics of the results behind the scores."""
        others = [name for row in self.rows() for name in row if name not in COLUMNS]
        place = COLUMNS.index(SCORES[-1]) + 1
        return list(dict.fromkeys((*COLUMNS[:place], *others, *COLUMNS[place:])))

    def rows(self) -> list[dict[str, str]]:
        return [result.row(number) for number, table in enumerate(self.tables, 1) for result in table]


def _scores(metrics: dict, suffix: str = '') -> dict[str, float]:
    """The main metrics, fractions in percent; COCO's -1 for a score of no objects is none."""
    shown = {label: (key_of(label), value) for label, value in main_metrics(metrics).items() if value is not None}
    return {
        f'{label}{suffix}': percent(label, value)
        for label, (key, value) in shown.items()
        if not (value < 0 and key.startswith('coco/'))
    }
