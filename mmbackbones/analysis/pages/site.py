"""Hooks of mkdocs (``mkdocs.yml``): the pages of ``configs/`` within the site, and links that hold in both places.

``configs/*/README.md`` become pages of the site, in the section that ``mkdocs.yml`` names. Pages link as files of the
project do, so that they can be read without the site. A link to another page becomes a link within the site. A link to
any other file of the project, which the site does not hold, becomes its text. A link to nothing stays, and the strict
build fails on it.
"""

import os.path
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTION, OTHERS = 'Families and experiments', 'Other pages'
LINK = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)')
FENCE = re.compile(r'^(```.*?^```)', re.DOTALL | re.MULTILINE)


def on_config(config):
    """List the pages of ``configs/`` in their section of the navigation, and every page without a place in another."""
    pages = [{_title(path): target} for path, target in _pages_of_configs(_root(config)).items()]
    docs = Path(config.docs_dir)
    placed = set(_leaves(config.nav))
    rest = [path for path in sorted(docs.rglob('*.md')) if path.relative_to(docs).as_posix() not in placed]
    for entry in config.nav:
        if isinstance(entry, dict) and SECTION in entry:
            entry[SECTION] = sorted(pages, key=lambda page: next(iter(page)).lower())
    if rest:
        config.nav.append({OTHERS: [{_title(path): path.relative_to(docs).as_posix()} for path in rest]})
    return config


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(entry)


def on_files(files, config):
    """Add the pages of ``configs/``."""
    from mkdocs.structure.files import File

    for path, target in _pages_of_configs(_root(config)).items():
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the project into links of the site."""
    root = _root(config)
    source = Path(page.file.abs_src_path).parent
    moved = {path.resolve(): target for path, target in _pages_of_configs(root).items()}
    docs = Path(config.docs_dir)

    def link(found: re.Match) -> str:
        mark, text, target = found.groups()
        place, _, anchor = target.partition('#')
        if not place or re.match(r'[a-z]+:', target):
            return found[0]
        path = (source / place).resolve()
        if path in moved:
            uri = moved[path]
        elif path.is_relative_to(docs) and path.is_file():
            uri = path.relative_to(docs).as_posix()
        elif path == root / 'README.md':
            uri = 'index.md'
        else:
            return text if path.exists() and not mark else found[0]
        relative = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')
        return f'{mark}[{text}]({relative}{"#" + anchor if anchor else ""})'

    pieces = FENCE.split(markdown)
    return ''.join(piece if FENCE.match(piece) else LINK.sub(link, piece) for piece in pieces)


def _root(config: Any) -> Path:
    return Path(os.path.realpath(config.config_file_path)).parent


def _pages_of_configs(root: Path) -> dict[Path, str]:
    """Path of each page of ``configs/`` and its place in the site."""
    return {path: f'configs/{path.parent.name}.md' for path in sorted(root.glob('configs/*/README.md'))}


def _title(path: Path) -> str:
    return path.read_text().split('\n', 1)[0].removeprefix('# ')
