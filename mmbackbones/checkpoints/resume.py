"""Finding where to go on: the newest checkpoint of a work dir that is whole."""

import re
from pathlib import Path

from mmbackbones.checkpoints.load import read_checkpoint
from mmbackbones.engine.hooks.checkpoint import POINTER
from mmbackbones.errors import InputError

NUMBERED = re.compile(r'.*?(\d+)\.pth')


def find_newest(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint of a training.

    That is the one that ``last_checkpoint`` names, unless a later file has a higher number (the run died before it
    could be named). Damaged ones are passed over for the next older one.

    Args:
        work_dir: the training's folder; it may have been moved since.

    Returns:
        tuple: the checkpoint, or None if there is none; and one sentence for each damaged one.
    """
    skipped = []
    for path in _newest_first(Path(work_dir)):
        try:
            read_checkpoint(path, 'meta')
        except InputError as error:
            skipped.append(f'skipped a damaged checkpoint: {error}')
        else:
            return path, skipped
    return None, skipped


def _newest_first(work_dir: Path) -> list[Path]:
    pointer = work_dir / POINTER
    named = None
    if pointer.is_file() and (text := pointer.read_text(errors='replace').strip()):
        named = work_dir / text  # absolute where mmengine's own hook wrote it
        if not named.is_file():
            named = work_dir / named.name
    folders = {work_dir, named.parent} if named else {work_dir}
    found = [
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.glob('*.pth')
        if NUMBERED.fullmatch(path.name) and not path.name.startswith('best_')
    ]
    ages = {path: path.stat().st_mtime_ns for path in found}

    def newness(path: Path) -> tuple:
        later = named in ages and _number(path) > _number(named) and ages[path] >= ages[named]
        return later, path == named, ages[path], _number(path)

    return sorted(found, key=newness, reverse=True)


def _number(path: Path) -> int:
    match = NUMBERED.fullmatch(path.name)
    return int(match[1]) if match else -1
