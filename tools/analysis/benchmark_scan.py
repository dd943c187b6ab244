"""Time the selective scan beside its peers: tools/analysis/benchmark_scan.py [--cases n16-1024 ...] [--csv FILE]."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.speed.options import benchmark_parser
from mmbackbones.analysis.speed.scan_cases import CASES, METHODS
from mmbackbones.engine.command import run_command


def main(argv: list[str] | None = None) -> None:
    parser = benchmark_parser('The selective scan beside its peers.', CASES, METHODS)
    parser.add_argument('--limit', type=float, default=10, help='leave out methods slower than this, in seconds a call')
    parser.add_argument('--limit-gb', type=float, default=4, help='leave out methods that need more memory than this')
    args = parser.parse_args(argv)

    from mmbackbones.analysis.speed.methods import run_benchmark
    from mmbackbones.analysis.speed.scan import benchmark

    def measure(case, dtype, batch):
        return benchmark(case, args.methods, args.device, dtype, args.rounds, args.limit, args.limit_gb, batch)

    if not run_benchmark(args, measure):
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
