"""Time the bootstrap at the size of COCO val: tools/analysis/benchmark_compare.py [--resamples 1000]."""

import argparse
import os
import runpy
import tempfile
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Difference of two synthetic detectors: matching and resampling.')
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--resamples', type=int, default=1000)
    args = parser.parse_args(argv)

    from mmbackbones.analysis.compare.benchmark import DETECTIONS, compare_synthetic, write_synthetic
    from mmbackbones.analysis.timing import wall_and_cpu
    from mmbackbones.evaluation.environment import environment

    with tempfile.TemporaryDirectory() as folder:
        truth, results = write_synthetic(Path(folder), args.images)
        (difference, low, high), wall, cpu = wall_and_cpu(
            lambda: compare_synthetic(truth, results, args.images, args.resamples)
        )
    about = environment()
    print(
        f'{args.images} images, {DETECTIONS} detections each, {args.resamples} resamples: {wall:.1f} s wall, '
        f'{cpu:.1f} s CPU; difference {100 * difference:+.2f} '
        f'({100 * low:+.2f} to {100 * high:+.2f})'
    )
    print(
        f'{about["device"]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, numpy '
        f'{about["versions"]["numpy"]}, Python {about["python"]}, {about["date"][:10]}'
    )


if __name__ == '__main__':
    run_command(main)
