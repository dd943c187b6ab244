"""Train a detector or segmentor: tools/train.py CONFIG [options]."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.engine.command_line import train

if __name__ == '__main__':
    run_command(train)
