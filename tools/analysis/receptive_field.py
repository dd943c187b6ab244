"""Where a token looks: tools/analysis/receptive_field.py CONFIG [CHECKPOINT] … [--at X Y] [--stage S …] -o FIGURE."""

import argparse
import io
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.engine.options import parse_options
from mmbackbones.errors import InputError
from mmbackbones.output_paths import require_file

FORMATS = ('.png', '.svg', '.pdf')


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        description='Effective receptive fields of backbones side by side (Luo et al. 2016): the gradient of the '
        'output of the token at a point with respect to the image, as a figure, as arrays and as numbers.'
    )
    found.add_argument(
        'networks',
        nargs='+',
        metavar='CONFIG [CHECKPOINT]',
        help="one or more configs, each with a checkpoint behind it or not; without: the config's own weights, which "
        'model.backbone.init_cfg names, or random ones if it names none',
    )
    found.add_argument('-o', '--out', required=True, metavar='FIGURE', help='.png, .svg or .pdf; FIGURE.npz is beside')
    found.add_argument('--at', nargs=2, type=float, metavar=('X', 'Y'), help='point in pixels (default: the centre)')
    found.add_argument(
        '--stage', nargs='+', type=int, metavar='S', help='maps that the backbone returns, from 0 (default: all)'
    )
    found.add_argument(
        '--size', nargs=2, type=int, default=(224, 224), metavar=('H', 'W'), help='px (default: 224 224)'
    )
    found.add_argument('--image', nargs='+', metavar='FILE', help='images to average over (default: noise)')
    found.add_argument('--noise', type=int, default=8, metavar='N', help='number of noise images (default: 8)')
    found.add_argument('--seed', type=int, default=0, help='of noise, random weights and signs (default: 0)')
    found.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    found.add_argument(
        '--backbone', nargs='+', metavar='NAME', help="models of the zoo that replace the configs' backbones, in order"
    )
    found.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='override keys of all configs')
    return found


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_intermixed_args(argv)
    import numpy as np

    from mmbackbones.analysis.receptive_field import measure, require_inside
    from mmbackbones.analysis.receptive_field.draw import COLUMNS, arrays, draw, facts
    from mmbackbones.analysis.receptive_field.networks import build, normalize, pairs, random_images, read_images
    from mmbackbones.analysis.tables import rich_table, show, write_file
    from mmbackbones.engine.device import require_device

    out, size = Path(args.out), tuple(args.size)
    if out.suffix.lower() not in FORMATS:
        raise InputError(f'--out {out}: expected a name that ends in {", ".join(FORMATS)}')
    require_file('--out', out)
    for option, values in (('--size', size), ('--noise', [args.noise])):
        if min(values) < 1:
            raise InputError(f'{option} {" ".join(map(str, values))}: expected 1 or more')
    at = tuple(args.at) if args.at else ((size[1] - 1) // 2, (size[0] - 1) // 2)
    require_inside(at, size)
    device = require_device(args.device)
    chosen = pairs(args.networks)
    backbones = args.backbone or [None] * len(chosen)
    if len(backbones) != len(chosen):
        raise InputError(f'--backbone: {len(backbones)} names for {len(chosen)} configs')
    images = read_images(args.image, size) if args.image else None

    fields, sentences = {}, []
    for (config, checkpoint), backbone in zip(chosen, backbones):
        network = build(config, checkpoint, parse_options(args.cfg_options or []), backbone, args.seed)
        name = network.name if network.name not in fields else f'{network.name} {len(fields) + 1}'
        batch = random_images(args.noise, size, args.seed) if images is None else normalize(images, network)
        fields[name] = measure(network.backbone.to(device), batch, at, args.stage, args.seed)
        sentences.append(f'{name}: {network.weights}')
    figure, data = io.BytesIO(), io.BytesIO()
    draw(fields, at, images[0] if images is not None and len(images) == 1 else None).savefig(
        figure, format=out.suffix[1:].lower(), dpi=150
    )
    np.savez_compressed(data, at=at, **arrays(fields))
    write_file(out, figure.getvalue())
    write_file(out.with_suffix('.npz'), data.getvalue())
    what = f'{len(images)} images' if images is not None else f'{args.noise} images of noise'
    show(
        f'x={at[0]:g}, y={at[1]:g} in {size[1]}x{size[0]} px, mean over {what}',
        *sentences,
        rich_table(COLUMNS, [facts(name, field) for name, row in fields.items() for field in row]),
        f'written: {out} and {out.with_suffix(".npz")}',
    )


if __name__ == '__main__':
    run_command(main)
