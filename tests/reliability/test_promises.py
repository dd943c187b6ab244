"""The table of docs/reliability.md and the tests behind it name the same promises, and a run prints their figures."""

import os
import re
import subprocess
import sys

from tests.conftest import ROOT

TESTS = """
import pytest

pytestmark = pytest.mark.promise('whole module')

@pytest.mark.parametrize('number', [3, 4])
@pytest.mark.promise('kills', 'second')
def test_kills(figure, number):
    print('not seen under xdist')
    figure(f'{number} kills')

def test_fails(figure):
    figure('0.9 s')
    assert False

@pytest.mark.promise('machines')
@pytest.mark.skipif(True, reason='no network here')
def test_skipped():
    pass
"""


def test_a_run_prints_a_line_for_each_promise(tmp_path):
    (tmp_path / 'test_a.py').write_text(TESTS)
    (tmp_path / 'pytest.ini').write_text('[pytest]\naddopts = --strict-markers\nmarkers = promise\n')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-p', 'tests.promises', '-n', '2', '-p', 'no:cacheprovider'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert [line for line in done.stdout.splitlines() if line.startswith('promise ')] == [
        'promise kills: 2 passed; 3 kills; 4 kills',
        'promise machines: 1 skipped (no network here)',
        'promise second: 2 passed; 3 kills; 4 kills',
        'promise whole module: 2 passed, 1 failed, 1 skipped (no network here); 0.9 s; 3 kills; 4 kills',
    ], done.stdout + done.stderr
    assert '1 failed, 2 passed, 1 skipped' in done.stdout.splitlines()[-1]  # tools/run_tests.sh counts there


def test_table_and_tests_name_the_same_promises():
    rows = re.findall(r'^\| `([a-z-]+)` \|', (ROOT / 'docs/reliability.md').read_text(), re.MULTILINE)
    marks = ' '.join(
        re.findall(
            r'\.promise\((.*?)\)',
            ' '.join(
                path.read_text() for path in (ROOT / 'tests').rglob('test_*.py') if path.name != 'test_promises.py'
            ),
        )
    )
    assert len(rows) == len(set(rows))
    assert set(rows) == set(re.findall(r"'(.*?)'", marks))
