"""Train a detector or segmentor: tools/train.py CONFIG [options]."""

from mmbackbones.engine.cli import train
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(train)
