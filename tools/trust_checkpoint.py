"""Extract the plain data of a checkpoint that contains code. This runs the code once, so use it for trusted files only.

    tools/trust_checkpoint.py SOURCE TARGET --sha256 HEX

The digest identifies the content of the trusted file. Take it from the author, or from sha256sum if you know the file's
origin. TARGET contains only tensors, numbers and texts, and loads everywhere.
"""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.checkpoints.trust import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(main)
