"""Faults that the data check found, and their display."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from mmbackbones.checkpoints.atomic import write_shared
from mmbackbones.errors import InputError


class Fault(NamedTuple):
    """One fault: the file, a kind that groups similar faults, and a sentence of one line.

    ``item`` is the item to leave out to remove the fault: a list of the annotation file and an index in it, such as
    ``('annotations', 7)``, or ``('images', 'ADE_train_00000007')``. None if no item can be left out.
    """

    file: str
    kind: str
    detail: str
    item: tuple[str, int | str] | None = None

    def __str__(self) -> str:
        return f'{self.file}: {self.detail}'.replace('\n', '\\n')


@dataclass
class Findings:
    """Results of the check of one data set.

    ``faults`` stop a run. ``warnings`` name items that the framework itself drops, and what else a run should not
    rest on. ``notes`` name what is normal in a small sample. ``labels`` is the number of pixels of each label of the
    index masks.
    """

    images: int = 0
    annotations: int = 0
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)
    labels: dict[int, int] = field(default_factory=dict)
    fingerprint: str = ''


@dataclass
class DatasetReport(Findings):
    """Report on one data set.

    ``fingerprint`` identifies the content (annotation bytes, names and sizes of the files) independently of its folder.
    """

    name: str = ''
    full: bool = False
    cached: bool = False
    seconds: float = 0.0

    def with_more(self, more: Findings) -> 'DatasetReport':
        """This report, with the faults, warnings and notes of other findings in front."""
        return replace(
            self,
            faults=more.faults + self.faults,
            warnings=more.warnings + self.warnings,
            notes=more.notes + self.notes,
        )

    def require_clean(self) -> None:
        """Stop at faults, see :func:`require_clean`."""
        require_clean([self])


def announce(reports: Sequence[DatasetReport]) -> None:
    """Log the warnings and notes: one line for each kind, with the first of them."""
    for report in reports:
        for level, found in ((logging.WARNING, report.warnings), (logging.INFO, report.notes)):
            for kind in dict.fromkeys(warning.kind for warning in found):
                group = [warning for warning in found if warning.kind == kind]
                rest = ''
                if len(group) > 1:
                    rest = (
                        f' (and {len(group) - 1} more of this kind; tools/analysis/check_dataset.py CONFIG lists them)'
                    )
                print_log(f'Data check: {group[0]}{rest}', logger='current', level=level)


def render(
    reports: Mapping[str, Sequence[DatasetReport]], max_rows: int = 50, table: bool = True
) -> Iterator[str | Text | Table]:
    """Reports of :func:`inspect_config` for ``rich``: a line for each data set, then its faults and warnings.

    Args:
        reports: Split -> reports.
        max_rows: Number of faults and warnings of a data set that are shown.
        table: Show them as a table; False: one line each.
    """
    for report, splits in distinct(reports):
        verdict = 'clean' if not report.faults else f'[bold red]{len(report.faults)} faults[/]'
        yield (
            f'{", ".join(splits)}: [bold]{escape(report.name)}[/]: {report.images} images, {report.annotations} '
            f'annotations, {verdict}, {len(report.warnings)} warnings, fingerprint {report.fingerprint or "none"} '
            f'({report.seconds:.1f} s{", cached" if report.cached else ""})'
        )
        rows = [
            (level, fault)
            for level, group in (('fault', report.faults), ('warning', report.warnings), ('note', report.notes))
            for fault in group
        ]
        shown, rest = rows[:max_rows], f'and {len(rows) - max_rows} more: --json FILE lists all'
        if not table:
            yield from (Text(f'{level}: {fault}') for level, fault in shown)
            if len(rows) > max_rows:
                yield rest
        elif rows:
            yield _table(shown, rest if len(rows) > max_rows else '')


def _table(rows: Sequence[tuple[str, Fault]], rest: str) -> Table:
    table = Table('level', 'kind', Column('file', overflow='fold'), Column('what is wrong', overflow='fold'))
    for level, fault in rows:
        table.add_row(level, fault.kind, *(Text(text.replace('\n', '\\n')) for text in (fault.file, fault.detail)))
    if rest:
        table.add_row('', '', '', rest)
    return table


def write_json(reports: Mapping[str, Sequence[DatasetReport]], path: str | Path) -> None:
    """Write the reports of :func:`inspect_config`.

    Raises:
        InputError: the file cannot be written.
    """
    content = {split: [plain(report) for report in group] for split, group in reports.items()}
    try:
        write_shared(Path(path), json.dumps(content, indent=1).encode())
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror or error})') from error


def require_clean(reports: Sequence[DatasetReport], where: str | None = None) -> None:
    """Raise an error if there are faults.

    Args:
        reports: reports on all data sets.
        where: a clause that names the list of all faults.

    Raises:
        InputError: one line that names the first faulty file and the number of others.
    """
    faults = list(dict.fromkeys(fault for report in reports for fault in report.faults))
    if not faults:
        return
    rest = ''
    if len(faults) > 1:
        files = len({fault.file for fault in faults})
        where = where or 'tools/analysis/check_dataset.py CONFIG lists them'
        rest = f' (and {len(faults) - 1} more faults, {files} files in all; {where})'
    raise InputError(f'{faults[0]}{rest}')


def distinct(reports: Mapping[str, Sequence[DatasetReport]]) -> list[tuple[DatasetReport, list[str]]]:
    """Each report once, with the splits that use its data set."""
    found: list[tuple[DatasetReport, list[str]]] = []
    for split, group in reports.items():
        for report in group:
            splits = next((splits for known, splits in found if known == report), None)
            if splits is None:
                found.append((report, [split]))
            else:
                splits.append(split)
    return found


def plain(report: DatasetReport) -> dict:
    """A report in JSON types."""
    return dict(
        asdict(report),
        **{name: [fault._asdict() for fault in getattr(report, name)] for name in ('faults', 'warnings', 'notes')},
    )
