"""A checkpoint as safetensors with a model card: tools/publish.py CONFIG CHECKPOINT -o FOLDER."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.release.command_line import publish

if __name__ == '__main__':
    run_command(publish)
