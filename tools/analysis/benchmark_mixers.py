"""Time whole token mixers: tools/analysis/benchmark_mixers.py [--cases vim-t-512 ...] [--csv FILE]."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.speed.mixer_cases import CASES, METHODS
from mmbackbones.analysis.speed.options import benchmark_parser
from mmbackbones.engine.command import run_command


def main(argv: list[str] | None = None) -> None:
    parser = benchmark_parser(
        "Vim's and VMamba's mixers on one image: the directional scan by Triton, composed, with the copies of the "
        'published blocks, and with those around the official kernel; half precision by autocast.',
        CASES,
        METHODS,
    )
    parser.set_defaults(device=None)  # a GPU where there is one, which torch knows
    args = parser.parse_args(argv)

    import torch

    from mmbackbones.analysis.speed.methods import run_benchmark
    from mmbackbones.analysis.speed.mixers import benchmark

    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')

    def measure(case, dtype, batch):
        return benchmark(case, args.methods, args.device, dtype, args.rounds, batch)

    if not run_benchmark(args, measure):
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
