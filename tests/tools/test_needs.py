"""Every command, started by a Python without the environment, says in one sentence what to do."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BARE = [sys._base_executable, '-S', '-E']  # no site-packages
TOOLS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py'))


def sentence(*command, **environ: str) -> str:
    """The only line on stderr of a command that ends with exit code 2."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ') and ' lacks torch' in line
    return line


@pytest.mark.parametrize('tool', TOOLS)
def test_tools(tool, tmp_path):
    line = sentence(*BARE, tool, 'a config.py', '--option', MMBACKBONES_VENV=str(tmp_path))
    assert 'mmbackbones; make the environment (once, it takes minutes): bash tools/setup_env.sh; then call ' in line
    assert line.endswith(f'{tmp_path}/bin/python {tool} "a config.py" --option'.replace('"', "'"))


def test_an_environment_that_is_ready_is_named(tmp_path):
    (tmp_path / '.ready').touch()
    line = sentence(*BARE, 'tools/train.py', MMBACKBONES_VENV=str(tmp_path))
    assert line.endswith(f'; the environment is ready, call {tmp_path}/bin/python tools/train.py')


@pytest.mark.parametrize('arguments', [('mmbackbones', 'train', 'x.py'), ('mmbackbones.launch.quickstart',)])
def test_modules(arguments):
    assert sentence(*BARE, '-m', *arguments).endswith(f'python -S -E -m {" ".join(arguments)}')


@pytest.mark.parametrize('launcher', ['dist_train.sh', 'dist_test.sh'])
def test_launchers(launcher, tmp_path):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nexec {" ".join(BARE)} "$@"\n')
    python.chmod(0o755)
    line = sentence('bash', f'tools/{launcher}', 'x.py', '1', '2', PYTHON=str(python))
    assert line.endswith(f'bash tools/{launcher} x.py 1 2') and 'PYTHON=' in line


def test_import(tmp_path):
    env = dict(os.environ, MMBACKBONES_VENV=str(tmp_path / 'none'))
    done = subprocess.run([*BARE, '-c', 'import mmbackbones'], cwd=ROOT, env=env, capture_output=True, text=True)
    assert 'ImportError: ' in done.stderr and 'bash tools/setup_env.sh' in done.stderr.splitlines()[-1]


def test_a_missing_framework_is_named_as_well():
    path = str(ROOT / 'mmbackbones' / 'needs.py')
    code = f"import runpy; runpy.run_path({path!r})['end_without'](('sys', 'mmsegmentation_of_old'))"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and 'lacks mmsegmentation_of_old;' in done.stderr
