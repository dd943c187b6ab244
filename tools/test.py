"""Test a checkpoint: tools/test.py CONFIG CHECKPOINT [options]."""

from mmbackbones.engine.cli import test
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(test)
