"""tools/run_tests.sh with stand-ins for the set-up, ruff, pytest and the quickstart."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

INTERPRETER = """
echo "$*" >> calls.txt
case "$*" in
    *ruff*) exit {ruff} ;;
    *mypy*) exit {mypy} ;;
    *importlinter*) exit {imports} ;;
    *make_tables*) exit {tables} ;;
    *'not slow and not full'*) echo '{unit}'; exit {unit_code} ;;
    *'slow and not full'*) echo '{slow}'; exit {slow_code} ;;
    *) echo '=== 1 passed in 9.00s ===' ;;
esac
"""
PASSING = {
    'ruff': 0,
    'mypy': 0,
    'imports': 0,
    'tables': 0,
    'unit': '=== 7 passed, 2 skipped in 3.10s ===',
    'unit_code': 0,
    'slow': '=== 3 passed in 60.00s (0:01:00) ===',
    'slow_code': 0,
    'quickstart': 0,
    'set_up': 0,
}


@pytest.fixture
def run(tmp_path):
    """Run the script with these results of its phases; returns the finished process and the calls it made."""

    def run(*arguments: str, **results) -> tuple[subprocess.CompletedProcess, str]:
        results = {**PASSING, **results}
        tools = tmp_path / 'tools'
        tools.mkdir()
        shutil.copy(ROOT / 'tools' / 'run_tests.sh', tools)
        (tmp_path / 'python').write_text('#!/bin/sh' + INTERPRETER.format(**results))
        (tmp_path / 'python').chmod(0o755)
        (tools / 'setup_env.sh').write_text(f'echo {tmp_path}/python; exit {results["set_up"]}')
        (tools / 'quickstart.sh').write_text(f'echo quickstart >> calls.txt; exit {results["quickstart"]}')
        command = ['bash', Path('tools', 'run_tests.sh'), *arguments]
        done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        calls = tmp_path / 'calls.txt'
        return done, calls.read_text() if calls.exists() else ''

    return run


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stdout.splitlines()[-1]


def test_all_phases_pass(run):
    done, calls = run()
    assert done.returncode == 0, done.stderr
    assert last_line(done) == '15 passed, 0 failed'  # 7 + 3, four static checks, quickstart
    assert len(calls.splitlines()) == 8
    assert '-m full' not in calls


@pytest.mark.parametrize(
    ('results', 'failed'),
    [
        ({'ruff': 1}, 1),
        ({'mypy': 1}, 1),
        ({'imports': 1}, 1),
        ({'tables': 1}, 1),
        ({'unit': '=== 2 failed, 5 passed, 1 error in 3.10s ===', 'unit_code': 1}, 3),
        ({'unit': 'INTERNALERROR', 'unit_code': 3}, 1),
        ({'slow': '=== no tests ran in 0.10s ===', 'slow_code': 5}, 1),
        ({'quickstart': 1}, 1),
    ],
    ids=[
        'ruff',
        'types',
        'import floors',
        'generated tables',
        'unit tests',
        'pytest itself',
        'no end-to-end test left',
        'quickstart',
    ],
)
def test_a_failure_stops_nothing_and_is_told(run, results, failed):
    done, calls = run(**results)
    assert done.returncode == 1
    assert last_line(done).endswith(f', {failed} failed')
    assert done.stdout.count('FAILED') == 1
    assert len(calls.splitlines()) == 8


def test_nothing_runs_without_an_environment(run):
    done, calls = run(set_up=2)
    assert done.returncode == 2
    assert not calls


def test_fast_ends_after_the_unit_tests(run):
    done, calls = run('--fast')
    assert done.returncode == 0
    assert 'quickstart' not in calls and len(calls.splitlines()) == 6


def test_full_adds_the_costly_tests(run):
    done, calls = run('--full')
    assert done.returncode == 0
    assert '-m full' in calls


def test_arguments_reach_pytest_and_may_select_nothing(run):
    done, calls = run('-k', 'scan orders', slow='=== 9 deselected in 0.10s ===', slow_code=5)
    assert done.returncode == 0, done.stdout
    assert calls.count('-k scan orders') == 2
