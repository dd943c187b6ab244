"""``tools/demo.py``: from the command line to files or to a page.

What takes seconds to import is imported after the options are read.
"""

import argparse
import time
from pathlib import Path

from mmbackbones.demo.options import parser
from mmbackbones.engine.command import say
from mmbackbones.engine.options import parse_options
from mmbackbones.errors import InputError
from mmbackbones.output_paths import require_folder


def main(argv: list[str] | None = None) -> None:
    """``tools/demo.py IMAGE|FOLDER|VIDEO CONFIG CHECKPOINT``, or ``--web CONFIG CHECKPOINT [CONFIG2 CHECKPOINT2]``."""
    args = parser().parse_intermixed_args(argv)
    (_web if args.web else _files)(args)


def _files(args: argparse.Namespace) -> None:
    for option in ('port', 'host'):
        if getattr(args, option) is not None:
            raise InputError(f'--{option}: of the page, so only with --web')
    if len(args.arguments) != 3:
        raise InputError(
            f'expected IMAGE|FOLDER|VIDEO CONFIG CHECKPOINT, got {len(args.arguments)} arguments; '
            '--web takes CONFIG CHECKPOINT'
        )
    path, config, checkpoint = args.arguments
    out = Path(args.out or _default_out(path))
    require_folder('--out', out)

    from mmbackbones.demo.files import PREDICTIONS, write
    from mmbackbones.demo.inputs import Video, find
    from mmbackbones.evaluation.outputs import OutputFolder

    _require_path(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f'--out {out}: exists and is not empty; nothing was overwritten')
    (model,) = _models(args, [(config, checkpoint)])
    shown = find(path, model.reader)
    started = time.monotonic()
    images, detections = write(model, shown, OutputFolder(out))
    what = 'frame' if isinstance(shown, Video) else 'image'
    found = '' if detections is None else f', {detections} detections of score {model.score_threshold:g} or more'
    say(
        f'{images} {what}{"" if images == 1 else "s"}{found}, in {time.monotonic() - started:.1f} s on {model.device}; '
        f'painted, with {PREDICTIONS}, in {out}'
    )
    if isinstance(shown, Video) and images < shown.frames:
        say(f'warning: {path} says that it has {shown.frames} frames, {images} could be decoded')


def _web(args: argparse.Namespace) -> None:
    if args.out is not None:
        raise InputError('--out: --web writes no files')
    if len(args.arguments) not in (2, 4):
        raise InputError(
            f'--web: expected CONFIG CHECKPOINT or CONFIG CHECKPOINT CONFIG2 CHECKPOINT2, got {len(args.arguments)} '
            'arguments'
        )
    port = 7860 if args.port is None else args.port
    if not 0 < port < 65536:
        raise InputError(f'--port {port}: expected a number from 1 to 65535')

    from mmbackbones.demo.web import require_gradio, serve

    require_gradio()
    models = _models(args, list(zip(args.arguments[::2], args.arguments[1::2])))
    serve(models, args.host or '127.0.0.1', port)


def _models(args: argparse.Namespace, pairs: list[tuple[str, str]]) -> list:
    from mmbackbones.demo.model import Model

    backbones = args.backbone or [None] * len(pairs)
    if len(backbones) != len(pairs):
        raise InputError(f'--backbone: {len(backbones)} names for {len(pairs)} config{"s" if len(pairs) > 1 else ""}')
    models = []
    for (config, checkpoint), backbone in zip(pairs, backbones):
        models.append(
            Model(
                config,
                checkpoint,
                device=args.device,
                score_threshold=args.score_threshold,
                overrides=parse_options(args.cfg_options or []),
                backbone=backbone,
            )
        )
        for note in models[-1].notes:
            say(note)
    return models


def _require_path(path: str) -> None:
    """Refuse what is not there before a model is loaded."""
    if not Path(path).exists():
        raise InputError(f'{path}: no such file or folder')


def _default_out(path: str) -> str:
    return str(Path('work_dirs', 'demo', f'{Path(path).stem or "images"}_{time.strftime("%Y%m%d-%H%M%S")}'))
