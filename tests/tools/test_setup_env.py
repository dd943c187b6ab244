"""tools/setup_env.sh in a copy of the project, with a pip that only takes notes, and PATH under control."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

REAL_PYTHON = sys._base_executable
HIDDEN = re.compile(r'(python|pip|nvcc|c\+\+|g\+\+|gcc|cc|clang|df).*')
PYTHON = """
if [ "$1 $2" = '-m venv' ]; then
    "{python}" -m venv --without-pip "$3"
    for site in "$3"/lib/python*/site-packages; do mkdir "$site/pip" && cp "{stub}" "$site/pip/__main__.py"; done
    touch "$site/pip/__init__.py"
else
    exec "{python}" "$@"
fi
"""
ALTERED = """exec "{python}" -c 'import sys; {change}; exec(sys.stdin.read())'"""


@pytest.fixture(scope='session')
def commands(tmp_path_factory) -> Path:
    """A folder with everything on PATH but interpreters, compilers and df."""
    folder = tmp_path_factory.mktemp('commands')
    for source in os.environ['PATH'].split(os.pathsep):
        for path in Path(source).glob('*'):
            target = folder / path.name
            if not HIDDEN.fullmatch(path.name) and not target.is_symlink():
                target.symlink_to(path)
    return folder


class Project:
    """A copy of what setup_env.sh needs, the commands it finds, and the calls that it made."""

    def __init__(self, root: Path, commands: Path):
        self.root = root / 'project'
        self.bin = root / 'bin'
        self.record = root / 'pip.jsonl'
        self.path = f'{self.bin}:{commands}'
        self.venv = self.root / '.venv'
        for name in ('tools/setup_env.sh', 'requirements.txt', 'pyproject.toml', 'mmbackbones/torchvision_hook.py'):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / 'mmbackbones' / '__init__.py').touch()
        (self.root / 'mmbackbones' / 'torchvision_ops.py').write_text('def declare_if_missing(): pass\n')
        self.bin.mkdir()
        self.command('python3', PYTHON.format(python=REAL_PYTHON, stub=ROOT / 'tests' / 'tools' / 'stub_pip.py'))
        self.command('c++', f'echo compiler >> {self.record}')
        self.free_disk(100)

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def free_disk(self, gigabytes: int) -> None:
        self.command('df', f'echo Filesystem; echo fs 1 1 {gigabytes << 20} 1% /')

    def altered_python(self, name: str, change: str) -> None:
        self.command(name, ALTERED.format(python=REAL_PYTHON, change=change))

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen:
        environ = {'PATH': self.path, 'HOME': str(self.root), 'STUB_RECORD': str(self.record), **environ}
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        command = ['bash', 'tools/setup_env.sh', *arguments]
        return subprocess.Popen(command, cwd=self.root, env=environ, start_new_session=True, **pipes)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **environ)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def set_up(self, **environ: str) -> None:
        done = self.run(**environ)
        assert done.returncode == 0, done.stderr

    def calls(self) -> list[dict]:
        """Calls of ``pip install`` since the last time, as ``dict(arguments, environ)``."""
        calls = [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []
        self.record.unlink(missing_ok=True)
        return calls

    def mmcv_builds(self) -> list[dict]:
        return [call for call in self.calls() if 'onedl-mmcv' in call['arguments']]


@pytest.fixture
def project(tmp_path, commands) -> Project:
    return Project(tmp_path, commands)


def error_of(done: subprocess.CompletedProcess) -> str:
    """The last line of a run that the script refused."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ''
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: ')
    return last


def test_installs_in_order_and_prints_the_interpreter(project):
    done = project.run('--print-python')
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'{project.venv}/bin/python\n'
    calls = [call['arguments'] for call in project.calls()]
    order = [
        next(i for i, call in enumerate(calls) if word in call) for word in ('torch', 'ninja', 'onedl-mmcv', '-r', '-e')
    ]
    assert order == sorted(order) and len(calls) == 5
    assert all('--no-build-isolation' in call for call in calls[2:])
    assert '--no-deps' in calls[-1]


def test_the_cache_of_yapf_is_written_before_processes_share_it(project):
    project.set_up()
    assert (project.root / 'grammar').exists()


def test_second_run_calls_neither_pip_nor_compiler(project):
    project.set_up()
    assert project.calls()
    project.command('python3', f'echo python >> {project.record}')
    project.set_up()
    assert not project.record.exists()


@pytest.mark.parametrize('name', ['requirements.txt', 'pyproject.toml', 'mmbackbones/ops/scan.cpp'])
def test_changed_input_installs_again_but_builds_no_mmcv(project, name):
    project.set_up()
    project.calls()
    path = project.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else '') + '\n# changed\n')
    project.set_up()
    calls = project.calls()
    assert calls
    assert not any('--force-reinstall' in call['arguments'] for call in calls)
    project.set_up()
    assert not project.calls()


@pytest.mark.parametrize('loss', ['timm', 'mmcv/_ext.so', 'project.pth'])
def test_lost_package_is_put_back(project, loss):
    project.set_up()
    [lost] = project.venv.glob(f'lib/python*/site-packages/{loss}')
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    project.set_up()
    assert lost.exists()


def test_project_is_known_by_any_path_and_may_move(project):
    project.set_up()
    project.calls()
    moved = project.root.with_name('moved')
    project.root.with_name('link').symlink_to(project.root)
    project.root = project.root.with_name('link')
    project.set_up()
    assert not project.calls()
    project.root = project.root.resolve().rename(moved)
    project.set_up()
    assert ['-e', str(moved)] == project.calls()[-1]['arguments'][-2:]


def test_lost_compiled_scan_is_put_back(project):
    library = project.root / 'mmbackbones' / 'scan.so'
    library.touch()
    project.set_up()
    project.calls()
    library.unlink()
    project.set_up()
    assert any('-e' in call['arguments'] for call in project.calls())


def test_killed_set_up_is_resumed(project):
    process = project.start(STUB_MODE='hangs at requirements')
    while not (project.record.exists() and '"-r"' in project.record.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    assert not (project.venv / '.ready').exists()
    project.set_up()


def test_failed_set_up_is_resumed(project):
    fault = error_of(project.run(STUB_MODE='dies at requirements'))
    assert 'everything else' in fault and str(project.venv / 'setup.log') in fault
    assert not (project.venv / '.ready').exists()
    project.calls()
    project.set_up()
    assert not any('--force-reinstall' in call['arguments'] for call in project.calls())


def test_tail_of_pip_is_shown(project):
    assert 'disk quota exceeded' in project.run(STUB_MODE='dies at requirements').stderr


def test_environment_whose_interpreter_is_gone_is_made_anew(project):
    project.set_up()
    for link in (project.venv / 'bin').glob('python*'):
        link.unlink()
    project.set_up()
    assert (project.venv / 'bin' / 'python').exists()


def old_python(project):
    project.altered_python('python3', 'sys.version_info = (3, 9, 18)')


def new_python(project):
    project.altered_python('python3', 'sys.version_info = (3, 14, 0)')


def no_ensurepip(project):
    project.altered_python('python3', 'sys.modules["ensurepip"] = None')


def no_headers(project):
    project.altered_python('python3', 'import os; os.path.isfile = lambda path: False')


def no_python(project):
    (project.bin / 'python3').unlink()


def no_compiler(project):
    (project.bin / 'c++').unlink()


def little_disk(project):
    project.free_disk(3)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (no_compiler, r'no C\+\+ compiler \(c\+\+\)'),
        (little_disk, '3 GB of free disk .* needs 4 GB'),
        (no_python, 'no python3 on PATH'),
        (old_python, r'python3 is Python 3\.9\.18; Python 3\.10 to 3\.13 is needed'),
        (new_python, r'python3 is Python 3\.14\.0; Python 3\.10 to 3\.13 is needed'),
        (no_ensurepip, 'cannot make environments; .* python3-venv'),
        (no_headers, r'has no Python\.h .* python3-dev'),
    ],
)
def test_missing_prerequisite_is_one_line_and_leaves_nothing(project, damage, message):
    damage(project)
    before = sorted(project.root.rglob('*'))
    done = project.run()
    assert re.search(message, error_of(done))
    assert len(done.stderr.splitlines()) == 1
    assert sorted(project.root.rglob('*')) == before
    assert not project.calls()


def test_another_interpreter_is_found(project):
    (project.bin / 'python3').rename(project.bin / 'python3.12')
    old_python(project)
    project.set_up()


def test_unreachable_index(project):
    assert 'the package index cannot be reached' in error_of(project.run(STUB_MODE='offline'))


def test_cuda_libraries_need_more_disk(project):
    project.free_disk(6)
    assert 'CUDA libraries needs 12 GB' in error_of(project.run(STUB_MODE='cuda torch'))
    assert len(project.calls()) == 1


def test_folder_that_is_no_environment_is_left_alone(project):
    project.venv.mkdir()
    (project.venv / 'thesis.tex').write_text('years of work')
    assert 'is not a virtual environment' in error_of(project.run())
    assert [path.name for path in project.venv.iterdir()] == ['thesis.tex']


def test_other_place_for_the_environment(project, tmp_path):
    done = project.run('--print-python', MMBACKBONES_VENV='../elsewhere')
    assert Path(done.stdout.strip()).resolve() == (tmp_path / 'elsewhere/bin/python').resolve(), done.stderr
    assert not project.venv.exists()


def test_unknown_argument(project):
    assert 'unknown argument --force' in error_of(project.run('--force'))


REBUILD = ('--no-cache-dir', '--force-reinstall', '--no-deps')


def test_cached_mmcv_without_usable_operators_is_built_again(project):
    project.set_up(STUB_MODE='stale wheel')
    first, second = project.mmcv_builds()
    assert not set(REBUILD) & set(first['arguments'])
    assert set(REBUILD) < set(second['arguments'])


def test_mmcv_that_never_works_is_an_error(project):
    assert 'mmcv does not work: import mmcv.ops' in error_of(project.run(STUB_MODE='never ops'))
    assert len(project.mmcv_builds()) == 2
    assert not (project.venv / '.ready').exists()


def test_torchvision_of_another_torch_imports_nonetheless(project):
    project.set_up(STUB_MODE='torchvision of another torch')
    (hook,) = project.venv.glob('lib/python*/site-packages/mmbackbones_torchvision.pth')
    python = [project.venv / 'bin' / 'python', '-E', '-c']
    looking = 'import sys, importlib.util as util; assert util.find_spec("torchvision")'  # this alone costs nothing
    subprocess.run([*python, f'{looking}; assert "mmbackbones" not in sys.modules'], cwd=project.root, check=True)
    subprocess.run(
        [*python, 'import sys, torchvision; assert "mmbackbones.torchvision_ops" in sys.modules'],
        cwd=project.root,
        check=True,
    )
    project.calls()
    project.set_up()
    assert not project.calls()
    hook.unlink()
    project.set_up(STUB_MODE='torchvision of another torch')
    assert project.calls() and hook.is_file()


def test_matching_torchvision_is_left_alone(project):
    project.set_up()
    assert not list(project.venv.rglob('mmbackbones_torchvision*'))


def test_opencv_needs_no_display_libraries(project):
    project.set_up(STUB_MODE='no display')
    assert sum('opencv-python-headless' in call['arguments'] for call in project.calls()) == 1


def toolkit(folder: Path, release: str) -> str:
    (folder / 'include').mkdir(parents=True)
    (folder / 'include' / 'cuda_runtime.h').touch()
    (folder / 'bin').mkdir()
    (folder / 'bin' / 'nvcc').write_text(f'#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n')
    (folder / 'bin' / 'nvcc').chmod(0o755)
    return str(folder)


def test_matching_toolkit_builds_cuda_operators(project, tmp_path):
    home = toolkit(tmp_path / 'toolkit', '97.1')
    project.set_up(STUB_GPU='1', STUB_TORCH_CUDA='97.1', STUB_CUDA_HOME=home)
    [build] = project.mmcv_builds()
    assert build['environ']['FORCE_CUDA'] == '1'
    assert build['environ']['CUDA_HOME'] == home
    assert build['environ']['CUDA_VISIBLE_DEVICES'] is None


def test_cached_mmcv_without_cuda_operators_is_built_again(project, tmp_path):
    home = toolkit(tmp_path / 'toolkit', '97.1')
    project.set_up(STUB_GPU='1', STUB_TORCH_CUDA='97.1', STUB_CUDA_HOME=home, STUB_MODE='cpu wheel')
    assert set(REBUILD) < set(project.mmcv_builds()[1]['arguments'])


@pytest.mark.parametrize(
    ('environ', 'reason'),
    [
        ({}, 'torch 2.13.0 has no CUDA'),
        ({'STUB_TORCH_CUDA': '97.1'}, 'no GPU is visible'),
        ({'STUB_TORCH_CUDA': '97.1', 'STUB_GPU': '1'}, 'torch needs a CUDA toolkit 97.1'),
        ({'STUB_TORCH_CUDA': '97.2', 'STUB_GPU': '1', 'STUB_CUDA_HOME': 'toolkit'}, 'torch needs a CUDA toolkit 97.2'),
    ],
    ids=['no cuda', 'no gpu', 'no nvcc', 'other nvcc'],
)
def test_otherwise_cpu_operators_with_cuda_hidden(project, environ, reason):
    toolkit(project.root / 'toolkit', '97.1')
    done = project.run(**environ)
    assert done.returncode == 0, done.stderr
    assert f'built for the CPU: {reason}' in done.stderr
    [build] = project.mmcv_builds()
    assert build['environ']['FORCE_CUDA'] == '0'
    assert build['environ']['CUDA_VISIBLE_DEVICES'] == ''


def test_light_flags_and_jobs_are_for_mmcv_alone(project):
    project.set_up()
    for call in project.calls():
        flags, jobs = call['environ']['CXXFLAGS'], call['environ']['MAX_JOBS']
        if 'onedl-mmcv' in call['arguments']:
            assert flags == '-g0 -O1' and 1 <= int(jobs) <= os.cpu_count()
        else:
            assert flags is None and jobs is None


def pins() -> dict[str, Requirement]:
    lines = (line.split('#')[0].strip() for line in (ROOT / 'requirements.txt').read_text().splitlines())
    return {requirement.name: requirement for requirement in (Requirement(line) for line in lines if line)}


def test_every_dependency_is_pinned_within_its_range():
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 reads no TOML')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    tested, extras = pins(), project['optional-dependencies']
    wanted_by_tests = [Requirement(text) for text in extras['test']]
    ours = [extra for wanted in wanted_by_tests if wanted.name == project['name'] for extra in sorted(wanted.extras)]
    assert ours  # the test extra names others
    texts = [*project['dependencies'], *extras['test'], *(text for extra in ours for text in extras[extra])]
    for wanted in (wanted for wanted in map(Requirement, texts) if wanted.name != project['name']):
        [pin] = tested[wanted.name].specifier
        assert pin.operator in ('==', '<=')
        assert wanted.specifier.contains(pin.version), f'{wanted} excludes the tested {pin}'


@pytest.mark.parametrize('name', ['ruff', 'mypy', 'import-linter', 'numpy'])
def test_hooks_use_the_tested_versions(name):
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert f'{name}{pins()[name].specifier}' in hooks
