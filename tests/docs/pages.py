"""The pages of the documentation as blocks of code and as commands within the text.

A block of bash begins below one of these comments, which readers don't see:

    <!-- run -->               the block is run in a scratch folder, after those above it on its page
    <!-- not run: REASON -->   it needs data, a GPU or hours, or another test runs it

A block of Python is run, or is a config: below ``<!-- file: NAME -->`` it is a file of the page's scratch folder.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ('README.md', '.github/*.md', 'docs/*.md', 'configs/*/README.md')
    for path in ROOT.glob(place)
)
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r'(?:^ {4}\S.*\n(?: {6,}\S.*\n)*)+', re.MULTILINE)
SPAN = re.compile(r'`([^`]+)`')
MARK = re.compile(r'<!-- (run|not run: .+|file: \S+|beside: \S+) -->\n$')


@dataclass
class Block:
    """A fenced block of code: its page, line, language, text and the mark above it."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


@dataclass
class Command:
    """A command of a page, in words. ``whole`` is false for a command named in the text, which may lack arguments."""

    place: str
    words: list[str]
    whole: bool = True
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f'{self.place}: {shlex.join(self.words)}'


def blocks(page: str, language: str | None = None) -> list[Block]:
    """Fenced blocks of a page, in order."""
    text = (ROOT / page).read_text()
    found = []
    for match in BLOCK.finditer(text):
        mark = MARK.search(text[: match.start()])
        line = text.count('\n', 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2], mark and mark[1]))
    return [block for block in found if language in (None, block.language)]


def lines_of(text: str) -> list[str]:
    """Lines of shell, with continued ones joined and without comments."""
    joined = re.sub(r'\\\n\s*', '', text).split('\n')
    lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in joined]
    return [part.strip() for line in lines if line for part in line.split(' && ')]


def commands(page: str) -> list[Command]:
    """Every command of this project that a page names, in blocks and in the text."""
    text = (ROOT / page).read_text()
    found: list[Command] = []
    for block in blocks(page):
        if block.language in ('', 'bash'):
            variables: dict[str, str] = {}
            for line in lines_of(block.text):
                if set_ := re.fullmatch(r'([A-Z]+)=(\S+)', line):
                    variables[set_[1]] = set_[2]
                for name, value in variables.items():
                    line = re.sub(rf'\${name}\b', value, line)
                found += _command(str(block), line, True)
    prose = BLOCK.sub('', text)
    for match in INDENTED.finditer(prose):
        found += [each for line in lines_of(match[0]) for each in _command(page, line, True)]
    for match in SPAN.finditer(INDENTED.sub('', prose)):
        for part in lines_of(' '.join(match[1].split())):
            found += _command(page, part, False)
    return found


def _command(place: str, line: str, whole: bool) -> list[Command]:
    if substituted := re.search(r'\$\((.+)\)', line):
        line = substituted[1]
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation mark of the text
        return []
    while words and re.fullmatch(r'[A-Z_]+=\S*', words[0]):
        words.pop(0)
    words = list(_without_optional(word for word in words if word not in ('…', '...')))
    if words[:1] in (['python'], ['bash'], ['sh']) and words[1:2] != ['-m'] and words[1:2] != ['-c']:
        words = words[1:]
    elif words[:2] == ['python', '-m']:
        words = words[2:]
    is_ours = words and (words[0].startswith('tools/') or (words[0] in ('mmbackbones', 'pytest') and len(words) > 1))
    return [Command(place, words, whole)] if is_ours else []


def _without_optional(words: Iterable[str]) -> Iterator[str]:
    """``CONFIG [CHECKPOINT] [--port 7860]`` without what stands in brackets."""
    inside = False
    for word in words:
        inside = inside or word.startswith('[')
        if not inside:
            yield word
        inside = inside and not word.endswith(']')


def scratch(folder: Path) -> Path:
    """A folder that looks like the project's, in which commands write without a trace in the project."""
    for name in ('configs', 'tools', 'mmbackbones', 'tests', 'docs', 'benchmarks'):
        (folder / name).symlink_to(ROOT / name)
    return folder
