"""The options of ``export`` and ``publish``, told and checked before what takes seconds to import is imported."""

import argparse
from pathlib import Path

from mmbackbones.engine.options import Overrides
from mmbackbones.output_paths import FileOption, FolderOption
from mmbackbones.release.choices import FORMATS


def export(argv: list[str] | None = None) -> None:
    """``tools/export.py CONFIG CHECKPOINT``; see :mod:`mmbackbones.release.export`."""
    args = export_parser().parse_args(argv)
    from mmbackbones.release.export import export_with

    export_with(args)


def publish(argv: list[str] | None = None) -> None:
    """``tools/publish.py CONFIG CHECKPOINT``; see :mod:`mmbackbones.release.publish`."""
    args = publish_parser().parse_args(argv)
    from mmbackbones.release.publish import publish_with

    publish_with(args)


def export_parser() -> argparse.ArgumentParser:
    """Options of ``export``."""
    parser = argparse.ArgumentParser(
        prog='tools/export.py',
        description='Export the backbone of a config. The file is written only after it gave the maps of PyTorch.',
    )
    parser.add_argument('config', help='config file; it is Python code and is executed')
    parser.add_argument(
        'checkpoint', help='file, https://…, hf://owner/name/file or zoo://NAME; of the whole model or its backbone'
    )
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='(default: onnx)')
    parser.add_argument('--backbone-only', action='store_true', help='required; whole models need another tool')
    parser.add_argument('--backbone', metavar='NAME', help="a model of the zoo that replaces the config's backbone")
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), default=(512, 512), help='image size, px (default: 512 512)'
    )
    parser.add_argument('--dynamic', action='store_true', help='take images of any size')
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE', help='override keys')
    parser.add_argument('-o', '--out', action=FileOption, required=True, metavar='FILE', help='file to write')
    return parser


def publish_parser() -> argparse.ArgumentParser:
    """Options of ``publish``."""
    parser = argparse.ArgumentParser(
        prog='tools/publish.py', description='Write a checkpoint as safetensors with a model card, ready for a hub.'
    )
    parser.add_argument('config', help='config file; it is Python code and is executed')
    parser.add_argument('checkpoint', help='file, https://…, hf://owner/name/file or zoo://NAME')
    parser.add_argument(
        '-o', '--out', action=FolderOption, type=Path, required=True, metavar='FOLDER', help='new folder to write'
    )
    parser.add_argument('--backbone', metavar='NAME', help="a model of the zoo that replaces the config's backbone")
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE', help='override keys')
    parser.add_argument(
        '--records', type=Path, metavar='WORK_DIR', help="work dir with the scores (default: the checkpoint's folder)"
    )
    parser.add_argument('--license', metavar='NAME', help='licence of the weights, such as apache-2.0 (default: none)')
    return parser
