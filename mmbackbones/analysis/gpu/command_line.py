"""The command ``check_gpu``."""

import argparse
import sys
import time
from collections.abc import Sequence

from mmbackbones.analysis.gpu.choices import PHASES, Settings
from mmbackbones.output_paths import FileOption


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status: 0, 1 if a check failed or there is no CUDA device to check, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog='tools/check_gpu.py' if argv is None else None,
        description='Check this project on this GPU, and print a page to paste into an issue. Each phase runs in a '
        'process of its own, so that a failure of one is a row and the others still run. Without a CUDA device it says '
        'what it would do. Exit status: 0 if every check passed or was not possible here, 1 if one failed or there is '
        'no CUDA device, 2 for bad usage.',
    )
    parser.add_argument(
        '--phases',
        nargs='+',
        choices=PHASES,
        default=list(PHASES),
        metavar='PHASE',
        help=f'phases to run, in this order: {", ".join(PHASES)} (default: all)',
    )
    parser.add_argument(
        '--device', choices=('cuda', 'cpu'), help='cpu runs the phases without a GPU; default: cuda, else the plan'
    )
    defaults = Settings._field_defaults
    parser.add_argument(
        '--config', default=defaults['config'], help="the training's detector (default: Mask R-CNN with VMamba-tiny)"
    )
    parser.add_argument(
        '--size', type=int, default=defaults['size'], metavar='PX', help='side of its images (default: 512)'
    )
    parser.add_argument('--out', action=FileOption, metavar='FILE', help='also write the page to this file')
    args = parser.parse_args(argv)

    import torch

    from mmbackbones.analysis.gpu.page import failed, page, plan
    from mmbackbones.analysis.gpu.training import require_detector
    from mmbackbones.analysis.tables import write_file
    from mmbackbones.engine.device import require_device
    from mmbackbones.errors import InputError
    from mmbackbones.paths import find_config

    if args.size < 64:
        raise InputError(f'--size {args.size}: expected 64 and more')
    find_config(args.config)
    names = [name for name in PHASES if name in args.phases]
    if args.device is None and not torch.cuda.is_available():
        print(plan(names), end='')
        if args.out:
            print(f'--out {args.out}: not written, because nothing was checked')
        sys.exit(1)
    if 'training' in names:
        require_detector(args.config)
    settings = Settings(require_device(args.device), args.config, args.size)
    about, findings, seconds, text = _about(settings.device), {}, {}, ''
    for name in names:
        findings[name], seconds[name] = _run(name, settings)
        text = page(about, findings, seconds)
        if args.out:
            write_file(args.out, text)  # after each phase, so that an interruption loses one
    print(text)
    if failed(findings):
        sys.exit(1)


def _run(name: str, settings: Settings) -> tuple[list, float]:
    """Findings and seconds of a phase, each told on stderr as it comes."""
    from mmbackbones.analysis.gpu.isolate import findings_of

    found, start = [], time.monotonic()
    print(f'{name} …', file=sys.stderr, flush=True)
    for each in findings_of(name, PHASES[name], settings):
        found.append(each)
        print(f'  {each.check}: {each.status} {each.note}'.rstrip(), file=sys.stderr, flush=True)
    return found, time.monotonic() - start


def _about(device: str) -> dict[str, str]:
    import torch

    from mmbackbones.analysis.speed.methods import conditions

    about = conditions(device, torch.float32)
    return {name: about[name] for name in ('date', 'device', 'versions', 'commit')} | dict(
        command=' '.join(sys.argv), mmbackbones=_version()
    )


def _version() -> str:
    from mmbackbones import __version__

    return __version__
