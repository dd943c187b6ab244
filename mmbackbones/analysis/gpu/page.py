"""The page of a check: a table for each phase in Markdown, then what failed in full."""

from collections.abc import Mapping, Sequence

from mmbackbones.analysis.gpu.choices import PHASES
from mmbackbones.analysis.gpu.findings import FAILED, OK, SKIPPED, Finding
from mmbackbones.analysis.tables import markdown_table

MOST_DETAILS = 4000  # characters of one traceback, its end


def page(about: Mapping[str, object], findings: Mapping[str, Sequence[Finding]], seconds: Mapping[str, float]) -> str:
    """The page in Markdown.

    Args:
        about: machine, versions, commit and date, by name.
        findings: of every phase that ran.
        seconds: how long each of them took.
    """
    every = [found for rows in findings.values() for found in rows]
    counts = {status: sum(found.status == status for found in every) for status in (OK, FAILED, SKIPPED)}
    parts = [
        '# check_gpu: ' + ', '.join(f'{count} {status}' for status, count in counts.items()) + '\n',
        '\n'.join(f'* {name}: {value}' for name, value in about.items()) + '\n',
    ]
    for name, rows in findings.items():
        parts += [f'## {name} ({seconds[name]:.0f} s)\n', PHASES[name].purpose + '\n', _table(rows)]
    parts += [_details(found) for found in every if found.details]
    return '\n'.join(parts)


def _table(rows: Sequence[Finding]) -> str:
    columns = list(dict.fromkeys(name for found in rows for name in found.figures))
    cells = [
        [found.check, found.status, *(found.figures.get(name) for name in columns), ' '.join(found.note.split())]
        for found in rows
    ]
    return markdown_table(['check', 'status', *columns, 'note'], cells, '.3g')


def _details(found: Finding) -> str:
    text = found.details.strip()[-MOST_DETAILS:]
    return f'<details><summary>{found.check}</summary>\n\n```\n{text}\n```\n\n</details>\n'


def plan(names: Sequence[str]) -> str:
    """What the phases would do, for a machine without a CUDA device."""
    lines = ['No CUDA device is visible, so nothing is checked. On a machine with one, this command:\n']
    lines += [f'* **{name}** ({PHASES[name].duration:.0f} s at most). {PHASES[name].purpose}' for name in names]
    lines.append('\n`--device cpu` runs the phases on the CPU: other backends, FP32 training, no replay.')
    return '\n'.join(lines) + '\n'


def failed(findings: Mapping[str, Sequence[Finding]]) -> bool:
    """Whether a finding of any phase failed."""
    return any(found.status == FAILED for rows in findings.values() for found in rows)
