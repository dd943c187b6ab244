"""Resume a training: choose the checkpoint, and make the data in it safe to use."""

import re
from pathlib import Path

from mmbackbones.checkpoints.plain_data import restore_logs
from mmbackbones.checkpoints.read import TRUST, Checkpoint, read_checkpoint
from mmbackbones.errors import InputError

POINTER = 'last_checkpoint'  # a file of the work dir that names the newest checkpoint
NUMBERED = re.compile(r'.*?(\d+)\.pth')


def find_newest(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint of a training.

    It is the one that ``last_checkpoint`` names, or a file with a higher number if the run was killed before it named
    that file. If one is damaged, the next older one is taken.

    Args:
        work_dir: folder of the training; it may have been moved.

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


def require_resumable(checkpoint: Checkpoint, name: str, schedulers: bool) -> None:
    """Refuse a checkpoint without the state of a training, and make the rest of its data safe to use.

    Logs are converted to mmengine's objects. Paths become bare file names, see :func:`trustworthy_paths`.

    Args:
        checkpoint (Checkpoint): the checkpoint; its content is changed in place.
        name (str): the file, for the message.
        schedulers (bool): whether the training has parameter schedulers.

    Raises:
        InputError: states of the optimizer, schedulers, counters or logs are absent or are objects of foreign code.
    """
    content, left_out = checkpoint
    parts = (content.get(key) for key in ('meta', 'message_hub'))
    meta, hub = (part if isinstance(part, dict) else {} for part in parts)
    absent = [key for key in ['optimizer'] + ['param_schedulers'] * schedulers if key not in content]
    absent += [
        f'message_hub.{key}'
        for key in ('log_scalars', 'runtime_info', 'resumed_keys')
        if not isinstance(hub.get(key), dict)
    ]
    absent += [f'meta.{key}' for key in ('epoch', 'iter') if not isinstance(meta.get(key), int)]
    absent += [place for place in left_out if place.startswith(('optimizer.', 'param_schedulers.'))]
    if absent:
        raise InputError(
            f'checkpoint {name}: cannot be resumed, it has no usable {", ".join(absent)}; to start a new training '
            f'from its weights give it as load_from, without --resume{TRUST if left_out else ""}'
        )
    hub['log_scalars'] = restore_logs(hub['log_scalars'])
    hub['runtime_info'] = trustworthy_paths(hub['runtime_info'])
    kept = hub['log_scalars'].keys() | hub['runtime_info'].keys()
    hub['resumed_keys'] = {key: value for key, value in hub['resumed_keys'].items() if key in kept}


def trustworthy_paths(runtime_info: dict) -> dict:
    """Reduce the paths in a checkpoint to bare names of checkpoints, because mmengine deletes the files they name."""
    info = dict(runtime_info)
    for key, value in runtime_info.items():
        if key == 'keep_ckpt_ids':
            whole = isinstance(value, list) and all(type(item) is int for item in value)
            info[key] = value if whole else []
        elif key.startswith(('best_ckpt', 'last_ckpt')):
            name = Path(value).name if isinstance(value, str) else ''
            if re.fullmatch(r'(best_)?[\w.@%+=,() -]+\.pth', name):
                info[key] = name
            else:
                del info[key]
    return info
