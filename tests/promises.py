"""What a run of the tests prints of docs/reliability.md: one line for each promise, with the figures its tests noted.

``@pytest.mark.promise('id')`` names the row of that table which a test or a module backs.
"""

from collections import Counter

import pytest

OUTCOMES = ('passed', 'failed', 'error', 'skipped')


@pytest.fixture
def figure(record_property):
    """Note a figure in words, for the lines at the end: ``figure('15 kills, every bit equal')``."""
    return lambda text: record_property('figure', text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a test's promises to its reports, which xdist passes on where it swallows what a test prints."""
    for item in items:
        item.user_properties += [('promise', name) for mark in item.iter_markers('promise') for name in mark.args]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter] = {}
    figures: dict[str, list[tuple[str, str]]] = {}
    for outcome in OUTCOMES:
        for report in terminalreporter.getreports(outcome):
            properties = getattr(report, 'user_properties', [])  # a module that was not collected has none
            for name in (value for key, value in properties if key == 'promise'):
                words = f'skipped ({report.longrepr[2].removeprefix("Skipped: ")})' if outcome == 'skipped' else outcome
                counts.setdefault(name, Counter())[words] += 1
                figures.setdefault(name, []).extend(
                    (report.nodeid, value) for key, value in properties if key == 'figure'
                )
    if counts:
        terminalreporter.section('promises of docs/reliability.md')
    for name in sorted(counts):
        parts = [f'{number} {words}' for words, number in counts[name].items()]
        noted = dict.fromkeys(text for _, text in sorted(figures[name]))
        terminalreporter.line(f'promise {name}: {", ".join(parts)}{"".join(f"; {text}" for text in noted)}')
