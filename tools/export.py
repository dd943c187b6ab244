"""Export a backbone: tools/export.py CONFIG CHECKPOINT --backbone-only [--format onnx] [--dynamic] -o FILE."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.release.command_line import export

if __name__ == '__main__':
    run_command(export)
