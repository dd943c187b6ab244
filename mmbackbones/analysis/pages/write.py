"""Write the generated parts of README and docs, or name the pages where they differ: ``tools/make_tables.py``.

A generated part begins with ``<!-- generated: PART ARGUMENT…, by tools/make_tables.py -->`` and ends with
``<!-- end -->``. The parts are those of :mod:`mmbackbones.analysis.pages.parts`.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mmbackbones.errors import InputError

BEGIN, END = re.compile(r'^<!-- generated: (.+), by tools/make_tables\.py -->$'), '<!-- end -->'
PLACES = ('*.md', 'docs/**/*.md', 'configs/**/*.md')


def regenerate(text: str, root: Path, name: str) -> str:
    """Regenerate every generated part of a page.

    Args:
        text: text of the page.
        root: folder of the project with the tables.
        name: name of the page, for errors.

    Raises:
        InputError: an unknown part, wrong arguments of one, or no end.
    """
    from mmbackbones.analysis.pages.parts import PARTS  # takes seconds, and --help does not need it

    lines, written = text.split('\n'), []
    while lines:
        line = lines.pop(0)
        written.append(line)
        if found := BEGIN.match(line):
            if END not in lines:
                raise InputError(f'{name}: {line}: expected {END} below it')
            part, *arguments = found[1].split()
            if part not in PARTS:
                raise InputError(f'{name}: {line}: expected one of {", ".join(PARTS)}')
            try:
                content = PARTS[part](root, *arguments)
            except (InputError, TypeError, KeyError) as error:
                raise InputError(f'{name}: {line}: {type(error).__name__}: {error}') from error
            written += ['', *content.strip('\n').split('\n'), '', END]
            del lines[: lines.index(END) + 1]
    return '\n'.join(written)


def changed_pages(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, present text and generated text of each page in which the two differ.

    Raises:
        InputError: as :func:`regenerate`.
    """
    for path in sorted(path for place in PLACES for path in root.glob(place)):
        text = path.read_text()
        new = regenerate(text, root, path.relative_to(root).as_posix())
        if new != text:
            yield path, text, new


def main(argv: list[str] | None = None, root: Path = Path()) -> None:
    parser = argparse.ArgumentParser(description='Write the generated parts of README and docs from committed tables.')
    parser.add_argument('--check', action='store_true', help='write nothing; exit status 1 and a diff if any differs')
    args = parser.parse_args(argv)
    found = list(changed_pages(root))
    for path, text, new in found:
        name = path.relative_to(root).as_posix()
        if args.check:
            print(f'{name}: differs from its tables; run tools/make_tables.py')
            print('\n'.join(difflib.unified_diff(text.split('\n'), new.split('\n'), name, name, lineterm='', n=0)))
        else:
            path.write_text(new)
            print(f'{name}: written')
    if args.check and found:
        sys.exit(1)
