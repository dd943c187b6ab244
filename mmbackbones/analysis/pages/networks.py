"""The generated part that shows a run of ``tools/analysis/speed.py``: several networks against image size."""

from pathlib import Path

from mmbackbones.analysis.pages.committed import distinct, read
from mmbackbones.analysis.tables import markdown_table
from mmbackbones.zoo.published import network_and_task


def networks(root: Path, name: str) -> str:
    """Time and memory of each network at each size, in multiples of the first one's, too."""
    rows = read(root, name)
    first = {row['size']: row for row in reversed(rows)}
    lines = []
    for row in rows:
        base = first[row['size']]
        times = (
            [f'{float(row["median_ms"]) / 1e3:.2f}', _ratio(row, base, 'median_ms')] if row['median_ms'] else ['', '']
        )
        memory = [f'{float(row["peak_mb"]):.0f} MB', _ratio(row, base, 'peak_mb')] if row['peak_mb'] else ['', '']
        network = network_and_task(f'{row["config"]}.py')[0].replace('-', '_')
        lines.append([row['size'], f'`{network}`', row['tokens'], *times, *memory, row['note']])
    head = ['px', 'network', 'tokens', 'seconds', 'x first', 'peak above model and image', 'x first', 'note']
    if not any(row['note'] for row in rows):
        head, lines = head[:-1], [line[:-1] for line in lines]
    about = ('device', 'precision', 'versions', 'clock', 'date')
    return (
        f'{markdown_table(head, lines)}\n{", ".join(distinct(rows, column) for column in about)}, '
        f'commit {distinct(rows, "commit")}; `{name}`.'
    )


def _ratio(row: dict[str, str], base: dict[str, str], column: str) -> str:
    return f'{float(row[column]) / float(base[column]):.2f}'
