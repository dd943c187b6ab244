"""The skeleton of a new family: tools/new_backbone.py NAME [--class ClassName]."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.scaffold.new import main

if __name__ == '__main__':
    run_command(main)
