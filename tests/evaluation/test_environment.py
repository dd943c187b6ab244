"""The environment record: versions, device and date, and a commit only of a tree that git tracks."""

import re
import subprocess

import torch

from mmbackbones.evaluation import environment as module
from mmbackbones.evaluation.environment import commit, cpu_model, environment, installed


def git(folder, *arguments):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
    subprocess.run(['git', '-C', folder, *who, *arguments], check=True, capture_output=True)


def test_environment_names_versions_and_commit():
    found = environment()
    assert list(found) == ['versions', 'python', 'device', 'commit', 'date']
    assert found['versions']['torch'] == torch.__version__
    assert found['device'] and re.fullmatch(r'20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00', found['date'])
    assert installed(['torch', 'no-such-package']) == {'torch': torch.__version__}
    assert cpu_model()


def test_commit_of_a_checkout_and_of_none(tmp_path, monkeypatch):
    package = tmp_path / 'package'
    package.mkdir()
    (package / '__init__.py').write_text('')
    monkeypatch.setattr(module, 'PACKAGE', package)
    assert commit() is None  # no repository
    git(tmp_path, 'init')
    (tmp_path / 'other.py').write_text('')
    git(tmp_path, 'add', 'other.py')
    git(tmp_path, 'commit', '-m', 'another project')
    assert commit() is None  # a repository that holds the package, in a virtual environment say, and does not track it
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-m', 'the package')
    assert re.fullmatch('[0-9a-f]{12}', commit())
    (package / '__init__.py').write_text('x = 1')
    assert re.fullmatch(r'[0-9a-f]{12}\+', commit())
    monkeypatch.setenv('PATH', str(tmp_path))
    assert commit() is None  # no git
