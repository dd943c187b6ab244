"""Where the configs lie: beside the package in a checkout, within it in a wheel."""

import re
from pathlib import Path

from mmbackbones.errors import InputError

PACKAGE = Path(__file__).resolve().parent
CONFIGS = next((folder for folder in (PACKAGE / 'configs', PACKAGE.parent / 'configs') if folder.is_dir()), None)

# Names that configs had before arms and miniatures became data, and what is written in their place.
FORMER = (
    (
        r'quickstart/mask-rcnn_([\w-]+-mini(?:-v0)?)_\w+_(1xb4-300_shapes-coco)',
        'configs/quickstart/mask-rcnn_{1}.py --backbone {0}',
    ),
    (
        r'quickstart/([\w-]+-mini(?:-v0)?)_upernet_(1xb8-500_shapes-ade20k-128x128)',
        'configs/quickstart/upernet_{1}.py --backbone {0}',
    ),
    (
        r'(controlled/(?:miniature/)?(?:mask-rcnn_)?(?:gated|isotropic)-(?:tiny|small|mini))-([\w-]+)(_(?:fpn|upernet|fcn-1x1)_[\w-]+)',
        'configs/{0}{2}.py --cfg-options model.backbone.mixers={1}',
    ),
)


def find_config(name: str | Path, kind: str = 'config') -> Path:
    """Find a config file, or a suite file.

    Args:
        name: a path, or a name below the packaged configs with or without ``configs/`` before it and ``.py`` behind,
            such as ``vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco``. A path comes first.
        kind: what the message calls it.

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
    raise InputError(f'{name}: no such {kind} file{_hint(str(name))}')


def _hint(name: str) -> str:
    for pattern, instead in FORMER:
        if found := re.search(pattern + r'(?:\.py)?$', name):
            backbone = found[1].replace('-', '_') if '--backbone' in instead else found[1]
            return f'; it is now {instead.format(backbone, *found.groups()[1:])}'
    return ''
