"""Train and test everything in a suite: tools/analysis/run_suite.py SUITE.yaml [options]."""

from mmbackbones.engine.command import run_command
from mmbackbones.launch.run_suite import main

if __name__ == '__main__':
    run_command(main)
