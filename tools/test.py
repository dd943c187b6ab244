"""Test a checkpoint: tools/test.py CONFIG CHECKPOINT [options]."""

from mmbackbones.engine.cli import run_command, test

if __name__ == '__main__':
    run_command(test)
