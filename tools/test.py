"""Test a checkpoint: tools/test.py CONFIG CHECKPOINT [options]."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.engine.command_line import test

if __name__ == '__main__':
    run_command(test)
