"""A new family: whole or not at all, and in working order as it is written."""

import csv
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmbackbones.checkpoints import atomic
from mmbackbones.errors import InputError
from mmbackbones.scaffold import check, new, templates
from tests.conftest import ROOT

NAME, CLASS = 'toy_net', 'ToyNet'


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files that the command reads, and nothing else."""
    for path in (*templates.ROWS, templates.PACKAGE, templates.REGISTRY_TEST):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for folder in ('mmbackbones/checkpoints/adapters', 'configs', 'tests/backbones', 'benchmarks', 'tests/golden'):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    return tmp_path


def snapshot(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_one_more_row_and_line_each(checkout, capsys):
    before = snapshot(checkout)
    new.main([NAME, '--into', str(checkout)])
    assert 'tools/check_backbone.py toy_net' in capsys.readouterr().out
    for path in templates.ROWS:
        text = (checkout / path).read_text()
        assert text.startswith(before[checkout / path].decode().rstrip())
        head, *rows = csv.reader(text.splitlines())
        assert len(rows[-1]) == len(head) and 'toy' in rows[-1][0]
    package = (checkout / templates.PACKAGE).read_text()
    assert f'from mmbackbones.backbones.{NAME} import {CLASS}\n' in package and f"    '{CLASS}',\n" in package
    assert (checkout / templates.REGISTRY_TEST).read_text().count(f"'{CLASS}'") == 2
    assert len(snapshot(checkout)) == len(before) + len(templates.FILES)


def test_what_is_written_passes_ruff(checkout):
    new.main([NAME, '--into', str(checkout)])
    shutil.copy(ROOT / 'pyproject.toml', checkout)
    own = 'lint.isort.known-first-party=["mmbackbones", "tests"]'  # the packages are not whole here
    for command in (['check', '--no-cache', '--config', own], ['format', '--no-cache', '--check']):
        done = subprocess.run(
            [sys.executable, '-m', 'ruff', *command, '.'], cwd=checkout, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_the_network_of_the_skeleton_works(checkout, monkeypatch):
    """As the configs and the registry row use it; its adapter leaves its own names alone."""
    new.main([NAME, '--into', str(checkout)])
    for kind, path in (
        ('adapters', f'mmbackbones/checkpoints/adapters/{NAME}.py'),
        ('', f'mmbackbones/backbones/{NAME}.py'),
    ):
        module = f'mmbackbones.{"checkpoints.adapters" if kind else "backbones"}.{NAME}'
        spec = importlib.util.spec_from_file_location(module, checkout / path)
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module, loaded)
        try:
            spec.loader.exec_module(loaded)
        finally:
            from mmbackbones.registry import MODELS

            MODELS.module_dict.pop(CLASS, None)  # other tests list the registry
    net = getattr(loaded, CLASS)(arch=dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1))).train()
    maps = net(torch.randn(2, 3, 33, 47))
    assert [tuple(each.shape[1:]) for each in maps] == [(8, 9, 12), (12, 5, 6), (16, 3, 3), (24, 2, 2)]
    sum(each.square().mean() for each in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.convert_state_dict(dict(net.state_dict())).keys() == net.state_dict().keys()
    with torch.device('meta'):
        assert list(getattr(loaded, CLASS)(arch='tiny').out_channels) == [64, 128, 256, 512]  # as the configs say


@pytest.mark.parametrize(
    ('arguments', 'fault'),
    [
        (['Toy'], 'Toy: expected a lower-case name'),
        (['toy-net'], 'toy-net: expected a lower-case name'),
        (['class'], 'class: expected a lower-case name'),
        (['../toy'], r'\.\./toy: expected a lower-case name'),
        ([NAME, '--class', 'toy net'], '--class toy net: expected a name such as'),
        ([NAME, '--class', 'VMamba'], '--class VMamba: exists in models.csv'),
        (['block'], '--class Block: is a name in the skeleton itself'),
        ([NAME, '--class', 'Tensor'], '--class Tensor: is a name in the skeleton itself'),
        ([NAME, '--class', 'Backbone_'], '--class Backbone_: expected'),
    ],
)
def test_bad_names(checkout, arguments, fault):
    before = snapshot(checkout)
    with pytest.raises(InputError, match=fault) as error:
        new.main([*arguments, '--into', str(checkout)])
    assert '\n' not in str(error.value) and snapshot(checkout) == before


def test_a_class_is_defined_once(checkout):
    """In the whole package: the registry refuses a second one when it is imported."""
    (checkout / 'mmbackbones/neck.py').write_text('class Pyramid(Module):\n')
    before = snapshot(checkout)
    with pytest.raises(InputError, match=r'--class Pyramid: exists in mmbackbones/neck\.py; nothing was written'):
        new.main([NAME, '--class', 'Pyramid', '--into', str(checkout)])
    assert snapshot(checkout) == before


def test_a_name_is_taken_once(checkout):
    new.main([NAME, '--into', str(checkout)])
    before = snapshot(checkout)
    with pytest.raises(InputError, match=f'{NAME}: mmbackbones/backbones/{NAME}.py exists; nothing was written'):
        new.main([NAME, '--into', str(checkout)])
    assert snapshot(checkout) == before
    (checkout / f'mmbackbones/backbones/{NAME}.py').unlink()
    with pytest.raises(InputError, match='exists; nothing was written'):
        new.main([NAME, '--into', str(checkout)])


def test_no_checkout(tmp_path):
    with pytest.raises(InputError, match=r'no checkout of mmbackbones, it has no mmbackbones/zoo/models\.csv'):
        new.main([NAME, '--into', str(tmp_path)])
    with pytest.raises(InputError, match='an installed package comes without tests'):
        check.main([NAME, '--into', str(tmp_path)])


@pytest.mark.parametrize('fails_at', [1, 4, 9])
def test_all_or_nothing(checkout, monkeypatch, fails_at):
    """A full disk at any of the files leaves everything as it was, folders included."""
    before, written, real = snapshot(checkout), [], atomic.write_whole
    folders = {path for path in checkout.rglob('*') if path.is_dir()}

    def write(path, data):
        written.append(path)
        if len(written) == fails_at:
            raise OSError(28, 'No space left on device')
        real(path, data)

    monkeypatch.setattr(atomic, 'write_whole', write)
    with pytest.raises(InputError, match='cannot be written: No space left on device; nothing was changed'):
        new.main([NAME, '--into', str(checkout)])
    assert snapshot(checkout) == before
    assert {path for path in checkout.rglob('*') if path.is_dir()} == folders


def test_check_says_what_is_missing(checkout, capsys):
    new.main([NAME, '--into', str(checkout)])
    with pytest.raises(SystemExit) as ended:
        check.main([NAME, '--no-tests', '--into', str(checkout)])
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert f'missing   mmbackbones/backbones/{NAME}.py: replace the example in TokenMixer' in printed
    assert f'missing   configs/{NAME}/README.md' in printed and 'optional  benchmarks/complexity.csv' in printed

    for path in checkout.rglob('*'):
        if path.is_file() and path.suffix in ('.py', '.csv', '.md') and path.name != 'test_registry.py':
            text = path.read_text()
            path.write_text(text.replace('TODO', 'done').replace('THE MIXER: replace', 'A mixer: it does'))
    check.main([NAME, '--no-tests', '--into', str(checkout)])
    assert f'{CLASS}: 0 required and ' in capsys.readouterr().out

    (checkout / f'configs/{NAME}/mask-rcnn_toy-net-tiny_fpn_8xb2-amp-1x_coco.py').unlink()
    _, lacks = check.lacks_of(NAME, checkout)
    assert [lack.task for lack in lacks if lack.required] == ['the common config mask-rcnn_toy-net-tiny_*_coco.py']


def test_check_of_what_is_no_family(checkout):
    with pytest.raises(InputError, match=rf'{NAME}: no such family, .*{NAME}\.py is missing'):
        check.lacks_of(NAME, checkout)
    path = checkout / f'mmbackbones/backbones/{NAME}.py'
    path.write_text('def broken(:\n')
    with pytest.raises(InputError, match=r'toy_net\.py: line 1: '):
        check.lacks_of(NAME, checkout)
    path.write_text('x = 1\n')
    with pytest.raises(InputError, match='registers 0 classes'):
        check.lacks_of(NAME, checkout)


def test_families_of_the_zoo_lack_nothing_required():
    for name in ('vmamba', 'mambaout', 'mambavision', 'efficientvmamba'):
        _, lacks = check.lacks_of(name, ROOT)
        assert [lack for lack in lacks if lack.required] == [], name
