"""Check parity, determinism, speed and a training step on this GPU: tools/check_gpu.py [--out PAGE.md]."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.gpu.command_line import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(main)
