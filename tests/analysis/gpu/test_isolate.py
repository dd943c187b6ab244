"""A phase that raises, dies or hangs is a failed row, and what it found before stays."""

import pytest

from mmbackbones.analysis.gpu.choices import Phase, Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, SKIPPED, Finding, guarded
from mmbackbones.analysis.gpu.isolate import findings_of
from mmbackbones.errors import InputError


def run(name, **options):
    phase = Phase(f'tests.analysis.gpu.phases:{name}', 'a test', 60)
    return list(findings_of('phase', phase, Settings('cpu'), **options))


def test_findings_cross_the_border_of_the_process():
    first, second = run('good')
    assert first == Finding('first', OK, dict(device='cpu')) and second == Finding('second', OK, dict(error=0.25))


def test_what_a_phase_raises_is_its_last_row(capfd):
    before, last = run('raises')
    assert before == Finding('before') and (last.status, last.note) == (FAILED, 'ValueError: between two checks')
    assert "raise ValueError('between two checks" in last.details
    out, err = capfd.readouterr()
    assert out == '' and 'a library talks' in err


@pytest.mark.parametrize(
    'name, note', [('dies', 'the process ended with signal 9'), ('no_such_phase', 'AttributeError: module')]
)
def test_a_process_that_dies_is_a_row(name, note):
    last = run(name)[-1]
    assert last.status == FAILED and note in last.note


def test_a_phase_that_takes_too_long_is_ended():
    times = iter([0.0, 0.0, 60.0])  # the start, the wait for the first row, the wait for what never comes
    assert run('hangs', now=lambda: next(times)) == [
        Finding('before', FAILED),
        Finding('phase', FAILED, note='ended after 60 s, in the middle of a check'),
    ]


def test_a_check_that_is_not_possible_is_skipped():
    def refuse():
        raise InputError('no such package')

    assert guarded('check', refuse) == Finding('check', SKIPPED, note='no such package')
    assert guarded('check', lambda: Finding('other', FAILED)).check == 'other'
    failed = guarded('check', lambda: 1 / 0)
    assert failed.status == FAILED and failed.note == 'ZeroDivisionError: division by zero'
    assert failed.details.rstrip().endswith(failed.note)
