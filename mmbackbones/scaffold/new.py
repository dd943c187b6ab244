"""The command ``new_backbone``: the skeleton of a family, all of its files or none."""

import argparse
import csv
import io
import keyword
import re
from pathlib import Path

from mmbackbones.errors import InputError
from mmbackbones.scaffold import templates

ROOT = Path(__file__).resolve().parents[2]


def class_name(name: str) -> str:
    """``my_mixer`` -> ``MyMixer``."""
    return ''.join(part.capitalize() for part in name.split('_'))


def plan(name: str, cls: str, root: Path) -> tuple[dict[Path, str], dict[Path, str]]:
    """The files of a new family, and the present files with its lines.

    Args:
        name: of its modules, lower case.
        cls: of its class.
        root: folder of the checkout.

    Returns:
        New files and changed files: path -> text.

    Raises:
        InputError: a bad identifier, a name that is taken, or a folder that is no checkout.
    """
    _require_identifiers(name, cls)
    needed = [*templates.ROWS, templates.PACKAGE, templates.REGISTRY_TEST]
    if missing := [path for path in needed if not (root / path).is_file()]:
        raise InputError(f'--into {root}: no checkout of mmbackbones, it has no {missing[0]}')

    def fill(text: str) -> str:
        return text.replace('@name@', name).replace('@dashed@', name.replace('_', '-')).replace('@Class@', cls)

    new = {root / fill(path): fill(text) for path, text in templates.FILES.items()}
    for path in new:
        taken = path.parent if path.parent.parent.name == 'configs' else path
        if taken.exists():
            raise InputError(f'{name}: {taken.relative_to(root)} exists; nothing was written')
    _require_free_class(cls, root)
    changed = {
        root / path: _with_row(root / path, {key: fill(value) for key, value in row.items()})
        for path, row in templates.ROWS.items()
    }
    changed[root / templates.PACKAGE] = _with_import((root / templates.PACKAGE).read_text(), name, cls)
    before, mark, after = (root / templates.REGISTRY_TEST).read_text().partition('\nROWS = {\n')
    if not mark:
        raise InputError(f'{templates.REGISTRY_TEST}: has no line "ROWS = {{"; expected the table of all backbones')
    changed[root / templates.REGISTRY_TEST] = before + mark + fill(templates.REGISTRY_ROW) + after
    return new, changed


def write(new: dict[Path, str], changed: dict[Path, str]) -> None:
    """Write everything, or leave everything as it was.

    Raises:
        InputError: a file cannot be written; those written before it are taken back.
    """
    from mmbackbones.checkpoints.atomic import write_whole  # imports mmengine: not for --help

    before = {path: path.read_bytes() for path in changed}
    folders: list[Path] = []
    try:
        for path, text in (*new.items(), *changed.items()):
            if not path.parent.exists():
                path.parent.mkdir()
                folders.append(path.parent)
            write_whole(path, text.encode())
    except BaseException as error:
        for path in new:
            path.unlink(missing_ok=True)
        for path, data in before.items():
            if path.read_bytes() != data:
                write_whole(path, data)
        for folder in folders:
            folder.rmdir()
        if isinstance(error, OSError):
            raise InputError(f'{path}: cannot be written: {error.strerror or error}; nothing was changed') from error
        raise


def _require_identifiers(name: str, cls: str) -> None:
    if not re.fullmatch(r'[a-z][a-z0-9]*(_[a-z0-9]+)*', name) or keyword.iskeyword(name):
        raise InputError(f'{name}: expected a lower-case name such as my_mixer, which is no word of Python')
    if not re.fullmatch(r'[A-Z][A-Za-z0-9]*', cls) or keyword.iskeyword(cls):
        raise InputError(f'--class {cls}: expected a name such as MyMixer')


def _require_free_class(cls: str, root: Path) -> None:
    """Refuse a class that the skeleton uses under this name, or that the package has: the registry takes it once."""
    if re.search(rf'\b{cls}\b', templates.MODEL):
        raise InputError(f'--class {cls}: is a name in the skeleton itself; give another with --class')
    defined = re.compile(rf'^class {cls}\b', re.MULTILINE)
    for path in sorted((root / 'mmbackbones').rglob('*.py')):
        if defined.search(path.read_text()):
            raise InputError(f'--class {cls}: exists in {path.relative_to(root)}; nothing was written')


def _with_row(path: Path, row: dict[str, str]) -> str:
    text = path.read_text()
    head, *rows = csv.reader(io.StringIO(text))
    if unknown := [key for key in row if key not in head]:
        raise InputError(f'{path}: has no column {unknown[0]!r}')
    same_class = 'class' in head and row['class'] in {cells[head.index('class')] for cells in rows}
    if same_class:
        raise InputError(f'--class {row["class"]}: exists in {path.name}; nothing was written')
    if row[head[0]] in {cells[0] for cells in rows}:
        raise InputError(f'{row[head[0]]}: exists in {path.name}; nothing was written')
    line = io.StringIO()
    csv.writer(line, lineterminator='\n').writerow([row.get(key, '') for key in head])
    return f'{text.rstrip()}\n{line.getvalue()}'


def _with_import(text: str, name: str, cls: str) -> str:
    """The package's imports and ``__all__`` with one more, in order."""
    imports = re.findall(r'^from mmbackbones\.backbones\.\w+ import \w+\n', text, re.MULTILINE)
    names = re.findall(r"^    '(\w+)',\n", text, re.MULTILINE)
    if cls in names:
        raise InputError(f'--class {cls}: exists in {templates.PACKAGE}; nothing was written')
    added = f'from mmbackbones.backbones.{name} import {cls}\n'
    old, new = ''.join(imports), ''.join(sorted([*imports, added], key=lambda line: line.split()[1]))
    # As ruff sorts names: those in capitals first.
    listed = sorted([*names, cls], key=lambda each: (not each.isupper(), each))
    old_names, new_names = (''.join(f"    '{each}',\n" for each in group) for group in (names, listed))
    if old not in text or old_names not in text:
        raise InputError(f'{templates.PACKAGE}: expected its imports, and the names of __all__, next to each other')
    return text.replace(old, new).replace(old_names, new_names)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog='tools/new_backbone.py',
        description='Write the skeleton of a family of backbones: model, weight adapter, rows of the zoo, two configs, '
        'a page and a golden test. It trains as it is; its class TokenMixer is to be replaced.',
    )
    parser.add_argument('name', metavar='NAME', help='lower case, such as my_mixer')
    parser.add_argument('--class', dest='cls', metavar='ClassName', help='(default: NAME in camel case)')
    parser.add_argument(
        '--into', type=Path, default=ROOT, metavar='FOLDER', help='another checkout (default: the one of this command)'
    )
    args = parser.parse_args(argv)
    root, cls = args.into.absolute(), args.cls or class_name(args.name)
    new, changed = plan(args.name, cls, root)
    write(new, changed)
    for path in new:
        print(f'written  {path.relative_to(root)}')
    for path in changed:
        print(f'one more line in  {path.relative_to(root)}')
    print(f'Replace the class TokenMixer in it, then: tools/check_backbone.py {args.name}')
