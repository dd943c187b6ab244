"""The command ``check_backbone``: what a family still lacks, and its tests."""

import argparse
import ast
import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmbackbones.errors import InputError
from mmbackbones.scaffold import templates
from mmbackbones.scaffold.new import ROOT

TESTS = (
    'tests/backbones/test_registry.py',
    'tests/zoo',
    'tests/configs/test_common_recipe.py',
    'tests/release/test_export.py',
)
TODO = 'TODO'


@dataclass(frozen=True)
class Lack:
    """Something missing.

    Attributes:
        file (str): where, from the root of the checkout.
        task (str): what to do.
        required (bool): False: the family trains and compares without it.
    """

    file: str
    task: str
    required: bool = True


def lacks_of(name: str, root: Path) -> tuple[str, list[Lack]]:
    """The class of a family, and what it lacks.

    Args:
        name: of its module in ``mmbackbones/backbones``.
        root: folder of the checkout.

    Raises:
        InputError: there is no such family, or its module is not readable Python with one registered class.
    """
    module = root / f'mmbackbones/backbones/{name}.py'
    if not module.is_file():
        raise InputError(
            f'{name}: no such family, {module.relative_to(root)} is missing; tools/new_backbone.py writes it'
        )
    cls = _class_of(module)
    return cls, list(_lacks(name, cls, root))


def _class_of(module: Path) -> str:
    try:
        tree = ast.parse(module.read_text())
    except SyntaxError as error:
        raise InputError(f'{module}: line {error.lineno}: {error.msg}') from error
    registered = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any('MODELS.register_module' in ast.unparse(d) for d in node.decorator_list)
    ]
    if len(registered) != 1:
        raise InputError(f'{module}: registers {len(registered)} classes with MODELS.register_module(), expected one')
    return registered[0]


def _lacks(name: str, cls: str, root: Path) -> Iterator[Lack]:
    dashed = name.replace('_', '-')
    module, package = f'mmbackbones/backbones/{name}.py', templates.PACKAGE
    if TODO in (root / module).read_text():
        yield Lack(module, 'fill in the TODOs of the docstring: paper, repository, licences')
    if 'THE MIXER: replace' in (root / module).read_text():
        yield Lack(module, 'replace the example in TokenMixer')
    if f'backbones.{name} import {cls}' not in (root / package).read_text():
        yield Lack(package, f'import {cls} and add it to __all__')
    if f"'{cls}" not in (root / templates.REGISTRY_TEST).read_text():
        yield Lack(templates.REGISTRY_TEST, f'add a small {cls} to ROWS')
    adapter = f'mmbackbones/checkpoints/adapters/{name}.py'
    if not (root / adapter).is_file():
        yield Lack(adapter, f'a function convert_{name}, state_dict -> state_dict')
    models, miniatures, published = templates.ROWS
    rows = [row for row in _rows(root / models) if row['class'] == cls]
    yield from [] if rows else [Lack(models, f'one row for each published model of class {cls}')]
    for row in rows:
        if TODO in ''.join(row.values()):
            yield Lack(models, f'{row["name"]}: fill in the cells with TODO')
        if not row['weights']:
            yield Lack(
                models, f'{row["name"]}: the address of the weights and their SHA-256, once known', required=False
            )
        network = row['name'].replace('_', '-')
        for pattern in (f'mask-rcnn_{network}_*_coco.py', f'{network}_upernet_*_ade20k-512x512.py'):
            if not list(root.glob(f'configs/*/{pattern}')):
                yield Lack(f'configs/{name}/', f'the common config {pattern}')
    if not [row for row in _rows(root / miniatures) if row['class'] == cls]:
        yield Lack(miniatures, f'a row {name}_mini of class {cls} that a CPU core trains in minutes')
    for row in _rows(root / published):
        if row['network'].startswith(f'{dashed}-') and TODO in ''.join(row.values()):
            yield Lack(
                published, f'{row["network"]}: the published family and variant, or the reason why there is none'
            )
    page = f'configs/{name}/README.md'
    if not (root / page).is_file() or TODO in (root / page).read_text():
        yield Lack(page, 'the page of the family: paper, licences, what is published')
    test = f'tests/backbones/test_{name}.py'
    if not (root / test).is_file():
        yield Lack(test, "a golden test against the authors' network")
    golden = [*root.glob(f'tests/golden/{name}*'), *root.parent.glob(f'shared/golden/{name}*')]
    if not golden:
        yield Lack(
            'tests/golden/', f"recorded activations {name}_small.safetensors of the authors' code", required=False
        )
    for table, what in (
        ('benchmarks/complexity.csv', 'tools/analysis/complexity.py writes its parameters and MACs'),
        ('benchmarks/miniature_training.csv', 'tools/analysis/train_miniatures.py writes how it learns'),
    ):
        text = (root / table).read_text() if (root / table).is_file() else ''
        if f'{dashed}-' not in text and f'{name}_mini' not in text:
            yield Lack(table, what, required=False)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline='', encoding='utf-8') as lines:
        return list(csv.DictReader(lines))


def tests_of(name: str, cls: str, root: Path) -> list[str]:
    """Arguments of pytest that select the tests of a family."""
    own = root / f'tests/backbones/test_{name}.py'
    dashed = name.replace('_', '-')
    words = dict.fromkeys((cls, f'{name}_', f'{dashed}-', 'every_backbone', 'unique'))
    files = [
        path for path in (*TESTS, *([str(own.relative_to(root))] if own.is_file() else [])) if (root / path).exists()
    ]
    # A test of the family's own file is selected by the name of the file.
    return ['-m', 'not slow and not full', '-k', ' or '.join((*words, f'test_{name}')), *files]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog='tools/check_backbone.py',
        description='Say what a family of backbones still lacks and run its tests. The exit status is 1 if something '
        'that is required is missing, or if a test fails.',
    )
    parser.add_argument('name', metavar='NAME', help='of its module, such as vmamba')
    parser.add_argument('--no-tests', action='store_true', help='only say what is missing')
    parser.add_argument('--into', type=Path, default=ROOT, metavar='FOLDER', help='another checkout')
    args = parser.parse_args(argv)
    root = args.into.absolute()
    if not (root / templates.REGISTRY_TEST).is_file():
        raise InputError(
            f'{root}: has no {templates.REGISTRY_TEST}; an installed package comes without tests, so this command '
            'needs a checkout (--into FOLDER)'
        )
    cls, lacks = lacks_of(args.name, root)
    for lack in lacks:
        print(f'{"missing " if lack.required else "optional"}  {lack.file}: {lack.task}')
    required = sum(lack.required for lack in lacks)
    print(f'{cls}: {required} required and {len(lacks) - required} optional things are missing', flush=True)
    failed = 0
    if not args.no_tests:
        command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *tests_of(args.name, cls, root)]
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])}
        failed = subprocess.run(command, cwd=root, env=environment, check=False).returncode
    if required or failed:
        sys.exit(1)
