"""The options of ``train`` and ``test``, told and checked before what takes seconds to import is imported."""

import argparse

from mmbackbones.engine.options import Overrides
from mmbackbones.output_paths import FolderOption


def train(argv: list[str] | None = None) -> None:
    """``tools/train.py CONFIG``; see :func:`mmbackbones.engine.cli.train`."""
    args = train_parser().parse_args(argv)
    from mmbackbones.engine.cli import train_with

    train_with(args)


def test(argv: list[str] | None = None) -> None:
    """``tools/test.py CONFIG CHECKPOINT``; see :func:`mmbackbones.engine.cli.test`."""
    args = test_parser().parse_args(argv)
    from mmbackbones.engine.cli import test_with

    test_with(args)


def train_parser() -> argparse.ArgumentParser:
    """Options of ``train``."""
    parser = _parser('Train a detector, segmentor or classifier, then test its last checkpoint.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='required',
        metavar='auto|PATH',
        help='continue from the newest checkpoint of the work dir; without one: error; auto: start a new run if there '
        'is none; PATH: continue from that checkpoint',
    )
    parser.add_argument('--amp', action='store_true', help='FP16 automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size')
    return parser


def test_parser() -> argparse.ArgumentParser:
    """Options of ``test``."""
    parser = _parser('Test a checkpoint.')
    parser.add_argument('checkpoint', help='file, https://…, hf://owner/name/file or zoo://NAME')
    parser.add_argument('--tta', action='store_true', help='multi-scale and flip test (segmentors)')
    parser.add_argument(
        '--out', action=FolderOption, metavar='DIR', help='write predictions and record to this new folder'
    )
    parser.add_argument(
        '--show-dir',
        action=FolderOption,
        metavar='DIR',
        help='write images of predictions and ground truth to this folder',
    )
    return parser


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file; it is Python code and is executed')
    parser.add_argument(
        '--backbone',
        metavar='NAME',
        help="a model of the zoo that replaces the config's backbone, such as vmamba_tiny_s1l8",
    )
    parser.add_argument(
        '--work-dir',
        help='folder for logs and results (default: work_dirs/<config name>, with _<backbone> and _<arm> if given)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        metavar='KEY=VALUE',
        help='override keys of the config, such as optim_wrapper.optimizer.lr=2e-4',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser
