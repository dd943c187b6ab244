"""Train and test everything in a suite: tools/analysis/run_suite.py SUITE.yaml [options]."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.launch.command_line import suite

if __name__ == '__main__':
    run_command(suite)
