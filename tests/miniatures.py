"""The quickstart's tasks with any miniature of the zoo, as configs and as files for commands without --backbone."""

import functools
import tempfile
from pathlib import Path

from mmengine.config import Config

from mmbackbones.engine.config import load_config
from tests.conftest import ROOT

DETECTOR = 'configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py'  # with a miniature MambaOut
SEGMENTOR = 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
TASKS = {'detection': DETECTOR, 'segmentation': SEGMENTOR}
FOLDER = tempfile.TemporaryDirectory(prefix='mmbackbones-miniatures-')


def miniature(name: str, task: str, overrides: dict | None = None) -> Config:
    """The quickstart's config of a task with the miniature ``vim_mini``, say."""
    return load_config(ROOT / TASKS[task], overrides, name)


@functools.cache
def written(name: str, task: str) -> Path:
    """The same as a file: ``mask-rcnn_vim-mini_fpn_1xb4-300_shapes-coco.py``."""
    network = name.replace('_', '-')
    stem = (
        f'mask-rcnn_{network}_fpn_1xb4-300_shapes-coco' if task == 'detection' else f'{network}_{Path(SEGMENTOR).stem}'
    )
    path = Path(FOLDER.name, f'{stem}.py')
    miniature(name, task).dump(path)
    return path
