"""A self-contained page of text, tables, figures and pictures, with its figures and data as files beside it."""

import base64
import io
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from matplotlib.figure import Figure as Canvas
from PIL import Image

from mmbackbones.analysis.figures import save
from mmbackbones.analysis.tables import cell, make_folder, write_csv, write_file
from mmbackbones.errors import InputError

PAGE = 'index.html'
MARK = '<meta name="generator" content="mmbackbones report">'
PICTURE_PX = 720  # long side of an embedded picture


@dataclass(frozen=True)
class Table:
    """A table, which is also written as ``data/<name>.csv``.

    Attributes:
        name (str): name of the file.
        caption (str): what it shows.
        header (Sequence[str]): column names.
        rows (Sequence[Sequence[object]]): cells. None is an empty cell. Floats are shortened on the page only.
        in_file_only (Collection[str]): columns that the page leaves out.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    in_file_only: Collection[str] = ()

    def shown(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of the page: without columns that are for the file alone, or empty."""
        places = [
            place
            for place, name in enumerate(self.header)
            if name not in self.in_file_only and (place == 0 or any(row[place] not in (None, '') for row in self.rows))
        ]
        return [self.header[place] for place in places], [[row[place] for place in places] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A plot, which is also written as ``figures/<name>.svg`` and ``.png``.

    Attributes:
        name (str): name of the files.
        caption (str): what it shows.
        alt (str): description for readers who cannot see it: axes and curves.
        canvas (matplotlib.figure.Figure): the plot.
    """

    name: str
    caption: str
    alt: str
    canvas: Canvas


@dataclass(frozen=True)
class Picture:
    """An image file, embedded at a moderate size.

    Attributes:
        path (Path): the file.
        alt (str): what it shows.
    """

    path: Path
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading and its content: paragraphs (str), tables, figures and pictures."""

    title: str
    blocks: list[str | Table | Figure | Picture] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')


def write_page(folder: str | Path, title: str, lead: str, sections: Sequence[Section], footer: str) -> Path:
    """Write ``index.html``, ``figures/`` and ``data/`` to a folder that is complete or absent.

    Args:
        folder: folder of the page; an earlier report there is replaced.
        title: title of the page.
        lead: the paragraph under the title.
        sections: in reading order.
        footer: origin of the page.

    Returns:
        Path: the page.

    Raises:
        InputError: the folder is not a report, or cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not _replaceable(folder):
        raise InputError(f'{folder}: holds something else than a report; nothing was overwritten')
    partial = folder.with_name(f'.{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(folder.parent)
    for part in ('figures', 'data'):
        make_folder(partial / part)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {'cell': lambda value: cell(value, '.4g'), 'kind': lambda block: type(block).__name__}
    html = environment.get_template('page.html.j2').render(
        title=title,
        lead=lead,
        footer=footer,
        sections=[section for section in sections if section.blocks],
        embed=lambda block: _embed(block, partial),
    )
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Table):
                write_csv(partial / 'data' / f'{block.name}.csv', block.header, block.rows)
    write_file(partial / PAGE, html)
    old = folder.with_name(f'.{folder.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder / PAGE


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    page = folder / PAGE
    return not any(folder.iterdir()) or (page.is_file() and MARK in page.read_text(encoding='utf-8', errors='replace'))


def _embed(block: Figure | Picture, folder: Path) -> str:
    """The image as a data address."""
    if isinstance(block, Figure):
        _, svg = save(block.canvas, folder / 'figures' / block.name)
        return 'data:image/svg+xml;base64,' + base64.b64encode(svg.read_bytes()).decode()
    with Image.open(block.path) as image:
        image = image.convert('RGB')
        image.thumbnail((PICTURE_PX, PICTURE_PX))
        buffer = io.BytesIO()
        image.save(buffer, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()
