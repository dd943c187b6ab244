"""Show what a checkpoint finds: tools/demo.py IMAGE|FOLDER|VIDEO CONFIG CHECKPOINT, or --web CONFIG CHECKPOINT."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.demo.cli import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(main)
