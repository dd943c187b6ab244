"""Show what a checkpoint finds: tools/demo.py IMAGE|FOLDER|VIDEO CONFIG CHECKPOINT, or --web CONFIG CHECKPOINT."""

import runpy
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'mmbackbones'
runpy.run_path(str(PACKAGE / 'needs.py'))['end_without']()
if __name__ == '__main__':  # --help and wrong usage are answered before torch is imported, which takes seconds
    runpy.run_path(str(PACKAGE / 'demo' / 'options.py'))['parser']().parse_intermixed_args()

from mmbackbones.demo.cli import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(main)
