"""``--cfg-options KEY=VALUE``: read the texts of the command line as values of a configuration."""

import argparse
import re
from collections.abc import Sequence

from mmbackbones.errors import InputError

# Keys whose value is a path or a name. It is text as typed, whatever is in it; a bracketed list is one where the
# configuration has a list.
TEXT_KEYS = ('checkpoint', 'experiment_name', 'filename', 'img_path', 'load_from', 'seg_map_path', 'type')
PATH_KEYS = ('_dir', '_file', '_prefix', '_root')
PREFIXES = 'data_prefix'  # a dict of paths
QUOTES = '\'"'
BRACKETS = {'[': ']', '(': ')', '{': '}'}


class Options(dict):
    """Values by dotted keys, and under ``texts`` what was typed for each."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def add(self, key: str, text: str) -> None:
        self.texts[key] = text
        self[key] = read_value(text, key)

    def read_beside(self, key: str, present: object) -> None:
        """Read a text again, now that the value is known that it replaces."""
        if key in self.texts:
            self[key] = read_value(self.texts[key], key, present)


class Overrides(argparse.Action):
    """The argument ``KEY=VALUE``. It gives :class:`Options`; an argument without a value is named."""

    def __call__(self, parser, namespace, values, option_string=None):
        options = getattr(namespace, self.dest, None) or Options()
        for text in values:
            key, found, value = text.partition('=')
            if not found:
                raise InputError(f'{option_string} {text}: expected KEY=VALUE')
            options.add(key, value)
        setattr(namespace, self.dest, options)


def parse_options(options: Sequence[str]) -> Options:
    """Parse ``KEY=VALUE`` texts of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Overrides)
    return (parser.parse_args(['--cfg-options', *options]).cfg_options if options else None) or Options()


def read_value(text: str, key: str = '', present: object = None) -> object:
    """The value that a text of the command line stands for.

    A text in quotes is that text. A path or a name is taken as typed. Otherwise numbers, ``True``, ``False`` and
    ``None`` are read as such, ``[a,b]`` and ``a,b`` as lists and ``(a,b)`` as a tuple, to any depth. Spaces around an
    item of a list are no part of it. Everything else is text, as typed.

    Args:
        text (str): what stands behind ``KEY=``.
        key (str): the dotted key.
        present (object): the value that is replaced, or None. A text with a comma that replaces a text is a list only
            if its items are plain words, such as ``bbox,segm``.
    """
    if (quoted := _unquoted(text.strip())) is not None:
        return quoted
    if _is_path(key) and not isinstance(present, list | tuple | int | float):
        return None if text == 'None' else text
    parsed = _parse(text)
    plain = isinstance(parsed, list) and re.fullmatch(r'[\w.-]+(,[\w.-]+)*,?', text)
    listed = isinstance(parsed, list) and not text.strip().startswith('[')
    return text if listed and not plain and isinstance(present, str) else parsed


def _is_path(key: str) -> bool:
    *parents, leaf = key.split('.')
    return leaf in TEXT_KEYS or leaf.endswith(PATH_KEYS) or PREFIXES in (*parents[-1:], leaf)


def _parse(text: str) -> object:
    bare = text.strip()
    if (quoted := _unquoted(bare)) is not None:
        return quoted
    for opening, make in (('[', list), ('(', tuple)):
        if bare.startswith(opening) and _closes_at_end(bare):
            return make(_parse(item) for item in _items(bare[1:-1]))
    items = _items(text)
    if len(items) > 1 or (items and text.endswith(',')):
        return [_parse(item) for item in items]
    from mmengine.config import DictAction

    value = DictAction._parse_int_float_bool(bare)
    return text if isinstance(value, str) else value


def _unquoted(text: str) -> str | None:
    """The text between quotes if these are the only ones of their kind."""
    within = text[1:-1]
    return within if len(text) > 1 and text[0] in QUOTES and text[-1] == text[0] and text[0] not in within else None


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that a text begins with is closed by its last character."""
    return next((place for place, depth in _depths(text) if depth == 0), None) == len(text) - 1


def _items(text: str) -> list[str]:
    """Split a text at the commas outside brackets and quotes; a comma at the end begins no item."""
    commas = [place for place, depth in _depths(text) if depth == 0 and text[place] == ',']
    items = [text[start + 1 : end] for start, end in zip([-1, *commas], [*commas, len(text)])]
    return [item.strip() for item in (items if items[-1].strip() else items[:-1])] if commas else [text] if text else []


def _depths(text: str) -> list[tuple[int, int]]:
    """Place and depth of brackets of every character outside quotes. A bracket without its partner is a letter."""
    pairs = _pairs(text)
    closing = set(pairs.values())
    depths, depth, quote = [], 0, ''
    for place, letter in enumerate(text):
        if quote:
            quote = '' if letter == quote else quote
            continue
        # A quote within a word is an apostrophe.
        if letter in QUOTES and text.find(letter, place + 1) > 0 and (place == 0 or text[place - 1] in ' ,[('):
            quote = letter
            continue
        depth += (place in pairs) - (place in closing)
        depths.append((place, depth))
    return depths


def _pairs(text: str) -> dict[int, int]:
    """Places of brackets and of their partners."""
    open_places: list[int] = []
    pairs = {}
    for place, letter in enumerate(text):
        if letter in BRACKETS:
            open_places.append(place)
        elif open_places and letter == BRACKETS[text[open_places[-1]]]:
            pairs[open_places.pop()] = place
    return pairs
