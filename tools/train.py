"""Train a detector or segmentor: tools/train.py CONFIG [options]."""

from mmbackbones.engine.cli import run_command, train

if __name__ == '__main__':
    run_command(train)
