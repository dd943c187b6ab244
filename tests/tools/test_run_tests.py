"""tools/run_tests.sh with stand-ins for the set-up, ruff, pytest, the quickstart and apt."""

import os
import pty
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

    def run(*arguments: str, env: dict | None = None, terminal: int | None = None, **results):
        results = {**PASSING, **results}
        tools = tmp_path / 'tools'
        tools.mkdir()
        shutil.copy(ROOT / 'tools' / 'run_tests.sh', tools)
        (tmp_path / 'python').write_text('#!/bin/sh' + INTERPRETER.format(**results))
        (tmp_path / 'python').chmod(0o755)
        (tools / 'setup_env.sh').write_text(f'echo {tmp_path}/python; exit {results["set_up"]}')
        (tools / 'quickstart.sh').write_text(f'echo quickstart >> calls.txt; exit {results["quickstart"]}')
        command = ['bash', Path('tools', 'run_tests.sh'), *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
        )
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


@pytest.fixture
def no_browser(tmp_path) -> dict:
    """Variables of a machine without Chromium, where apt-get has it and says when it installs."""
    bin_ = tmp_path / 'bin'
    bin_.mkdir()
    for folder in os.environ['PATH'].split(os.pathsep):
        for path in Path(folder).glob('*'):
            if 'chrom' not in path.name and 'apt' not in path.name and not (bin_ / path.name).is_symlink():
                (bin_ / path.name).symlink_to(path)
    install = f'case "$*" in *install*) echo installed >> {tmp_path}/apt.txt; ln -s /bin/true {bin_}/chromium; '
    install += f'ln -s /bin/true {bin_}/chromedriver ;; esac'
    for name, script in {'apt-get': install, 'apt-cache': 'true'}.items():
        (bin_ / name).write_text(f'#!/bin/bash\n{script}\n')
        (bin_ / name).chmod(0o755)
    return {'PATH': str(bin_), 'HOME': str(tmp_path)}


@pytest.mark.skipif(os.geteuid() != 0, reason='only root is asked')
@pytest.mark.parametrize(
    ('options', 'more', 'answer', 'installs'),
    [
        ([], {}, None, False),
        (['--fast', '--install-browser'], {}, None, True),
        ([], {'MMBACKBONES_INSTALL_BROWSER': '1'}, None, True),
        ([], {}, '\n', False),
        ([], {}, 'n\n', False),
        ([], {}, 'y\n', True),
    ],
    ids=['no terminal', 'option', 'variable', 'no answer', 'no', 'yes'],
)
def test_apt_installs_nothing_unasked(run, no_browser, tmp_path, options, more, answer, installs):
    ours, theirs = pty.openpty() if answer else (None, None)
    if answer:
        os.write(ours, answer.encode())
    done, calls = run(*options, env=no_browser | more, terminal=theirs)
    assert done.returncode == 0 and '--install-browser' not in calls
    assert (tmp_path / 'apt.txt').exists() == installs
    assert ('will be skipped' in done.stdout) != installs
    if answer:
        assert b'[y/N]' in os.read(ours, 1000)
        os.close(theirs)
        os.close(ours)


def test_ci_says_yes_to_the_browser():
    assert '--install-browser' in (ROOT / '.ci' / 'run').read_text()
