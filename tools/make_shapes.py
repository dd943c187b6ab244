"""Write the generated miniature data: OUT_DIR/coco and OUT_DIR/ade20k. A second call only verifies them."""

import argparse
import sys
import time

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.errors import InputError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out_dir', help='folder to create')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        out_dir = write_shapes(args.out_dir, seed=args.seed)
    except (InputError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'{out_dir}/coco and {out_dir}/ade20k are complete ({time.perf_counter() - start:.1f} s)')
    return 0


if __name__ == '__main__':
    sys.exit(main())
