"""Do SSM networks detect and segment better at equal ImageNet accuracy? tools/analysis/evidence.py [--out DIR]."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.evidence.choices import COVARIATES, METRICS
from mmbackbones.engine.command import run_command
from mmbackbones.output_paths import FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Regress published box AP, mask AP and mIoU on ImageNet top-1 and the class of the token mixer. '
        'Intervals allow for rows of one family going together.'
    )
    parser.add_argument('--metrics', nargs='+', choices=tuple(METRICS), default=tuple(METRICS), help='default: all')
    parser.add_argument('--without', nargs='+', default=(), metavar='FAMILY', help='leave these families out')
    parser.add_argument('--only-plain-recipe', action='store_true', help='leave out rows beyond the plain recipe')
    parser.add_argument('--covariate', choices=COVARIATES, default='none', help='beside top-1, as its logarithm')
    parser.add_argument(
        '--add',
        type=Path,
        metavar='ROWS.csv',
        help='own rows: family, variant, token_mixer, top1, params_M, macs_G, schedule, source, and the metrics',
    )
    parser.add_argument(
        '--out',
        action=FolderOption,
        metavar='DIR',
        default='work_dirs/evidence',
        help='folder for evidence.md, evidence.csv and the figure (default: work_dirs/evidence)',
    )
    args = parser.parse_args(argv)

    from mmbackbones.analysis.evidence.figure import draw
    from mmbackbones.analysis.evidence.page import Selection, text
    from mmbackbones.analysis.evidence.show import contrasts, sentences
    from mmbackbones.analysis.figures import save
    from mmbackbones.analysis.tables import make_folder, write_csv, write_file

    selection = Selection(tuple(args.metrics), tuple(args.without), args.only_plain_recipe, args.covariate, args.add)
    points = selection.points()
    print('\n'.join(sentences(points)), contrasts(points, selection.covariate), sep='\n\n')
    out = make_folder(args.out)
    write_file(out / 'evidence.md', text(selection))
    columns = ('metric', 'family', 'variant', 'class', 'top1', 'score', 'params_M', 'macs_G', 'extras', 'source')
    rows = [
        (metric, p.family, p.variant, p.mixer, p.top1, p.score, p.params, p.macs, p.extras, p.source)
        for metric, group in points.items()
        for p in group
    ]
    write_csv(out / 'evidence.csv', columns, rows)
    save(draw(points), out / 'evidence')
    print(f'\nwritten to {out}: evidence.md, evidence.csv, evidence.png, evidence.svg')


if __name__ == '__main__':
    run_command(main)
