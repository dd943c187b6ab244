"""Where the configs lie: beside the package in a checkout, within it in a wheel."""

from pathlib import Path

from mmbackbones.errors import InputError

PACKAGE = Path(__file__).resolve().parent
CONFIGS = next((folder for folder in (PACKAGE / 'configs', PACKAGE.parent / 'configs') if folder.is_dir()), None)


def find_config(name: str | Path) -> Path:
    """Find a config file.

    Args:
        name: a path, or a name below the packaged configs with or without ``configs/`` before it and ``.py`` behind,
            such as ``vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco``. A path comes first.

    Raises:
        InputError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    if CONFIGS is not None and not path.is_absolute():
        below = str(path).removeprefix('configs/')
        for found in (CONFIGS / below, CONFIGS / f'{below}.py'):
            if found.is_file():
                return found
    raise InputError(f'{name}: no such config file')
