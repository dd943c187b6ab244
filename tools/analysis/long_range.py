"""Measure how far each token mixer sees: tools/analysis/long_range.py --task row --mixers ss2d dw7 dw3 --out DIR."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.long_range.choices import (
    CONTROLS,
    CURRICULA,
    DEVICES,
    DRAWS,
    MIXERS,
    POSITIONS,
    PRECISIONS,
    STEPS,
)
from mmbackbones.datasets.choices import CUE_SIDES, TASKS
from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from mmbackbones.evaluation.choices import RECORDS
from mmbackbones.output_paths import FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Train small nets that differ only in their token mixer on a task whose answer lies a known number '
        'of tokens away. Show accuracy against that distance. Runs in DIR are not repeated.'
    )
    parser.add_argument('--task', default='row', help=f'{", ".join(TASKS)} (default: row)')
    parser.add_argument(
        '--tokens',
        nargs='+',
        type=int,
        default=[32],
        metavar='N',
        help='tokens per side, or rows and columns, 16 to 128 (default: 32)',
    )
    parser.add_argument(
        '--cue-side', metavar='SIDE', help=f'{", ".join(CUE_SIDES)} (default: left for row, else random)'
    )
    parser.add_argument(
        '--distractors',
        type=int,
        default=0,
        metavar='N',
        help='copies of every cue in other colours, 0 to 3 (default: 0)',
    )
    parser.add_argument(
        '--noise',
        type=float,
        default=0.1,
        metavar='SIGMA',
        help="standard deviation of the pixels' noise; colours are +-1 (default: 0.1)",
    )
    parser.add_argument('--mixers', nargs='+', default=['ss2d', 'dw7', 'dw3'], metavar='MIXER', help=', '.join(MIXERS))
    parser.add_argument('--position', default='none', help=f'position code: {", ".join(POSITIONS)} (default: none)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='SEED')
    parser.add_argument(
        '--steps',
        type=int,
        help=f'training steps (default: {", ".join(f"{task} {steps}" for task, steps in STEPS.items())})',
    )
    parser.add_argument('--images', type=int, default=256, metavar='N', help='test images (default: 256)')
    parser.add_argument(
        '--chance-seeds',
        nargs='*',
        type=int,
        metavar='SEED',
        help='seeds of the runs with shuffled cues, which measure chance (default: those of --seeds); '
        'without a value, chance is taken as 25 %%, in routed as what an observer reaches that only counts colours',
    )
    harder = parser.add_argument_group('training', 'The record of a run names all of these.')
    harder.add_argument(
        '--control',
        action='store_true',
        help='also train the positive control, first: '
        + ', '.join(f'{mixer} for {task}' for task, mixer in CONTROLS.items()),
    )
    harder.add_argument(
        '--curriculum',
        default='none',
        help=f'{", ".join(CURRICULA)}: what is easier at first, the size of the grid, the distance to the cue or the '
        'number of copies of each cue (default: none)',
    )
    harder.add_argument(
        '--curriculum-share', type=float, metavar='SHARE', help='share of the steps that it takes (default: 0.5)'
    )
    harder.add_argument(
        '--copies', type=int, default=1, metavar='N', help='cues that say the same, in the test too (default: 1)'
    )
    harder.add_argument(
        '--batch', type=int, metavar='N', help='images per step (default: as many as have 4096 tokens, 2 or more)'
    )
    harder.add_argument(
        '--draw',
        default='in-turn',
        help=f'how training images are drawn: {", ".join(DRAWS)}; per-step allows --workers (default: in-turn)',
    )
    harder.add_argument('--precision', default='fp32', help=f'{", ".join(PRECISIONS)}; fp16 on CUDA (default: fp32)')
    harder.add_argument('--device', default='cpu', help=f'{", ".join(DEVICES)} (default: cpu)')
    how = parser.add_argument_group('how to run', 'Results do not depend on these.')
    how.add_argument('--jobs', type=int, default=1, metavar='N', help='runs at a time, one process each (default: 1)')
    how.add_argument(
        '--workers', type=int, default=0, metavar='N', help='processes per run that draw images (default: 0)'
    )
    how.add_argument('--threads', type=int, default=1, help='CPU threads per run (default: 1)')
    how.add_argument(
        '--save-every',
        type=int,
        default=500,
        metavar='STEPS',
        help='keep the state of a run after so many steps; the same command goes on from there (default: 500)',
    )
    parser.add_argument(
        '--out',
        action=FolderOption,
        type=Path,
        required=True,
        metavar='DIR',
        help='folder for records, table and figure',
    )
    args = parser.parse_args(argv)

    import torch

    from mmbackbones.analysis.figures import save
    from mmbackbones.analysis.long_range.curves import curves, interval_kind
    from mmbackbones.analysis.long_range.images import check_workers
    from mmbackbones.analysis.long_range.records import KIND, HowToRun, run_missing
    from mmbackbones.analysis.long_range.runs import runs_of
    from mmbackbones.analysis.long_range.show import SAYS, SAYS_ALWAYS, draw, markdown, more_settings, table, write_runs
    from mmbackbones.analysis.tables import make_folder, show, write_file
    from mmbackbones.datasets.long_range import LongRangeTask, grid_of

    tokens = grid_of(args.tokens)
    task = LongRangeTask(args.task, tokens, args.cue_side, args.distractors, args.noise, copies=args.copies)
    steps = STEPS[args.task] if args.steps is None else args.steps
    if args.chance_seeds is None:
        args.chance_seeds = args.seeds
    for option in ('mixers', 'seeds', 'chance_seeds'):
        values = getattr(args, option)
        if len(set(values)) < len(values):
            raise InputError(f'--{option.replace("_", "-")} {" ".join(map(str, values))}: a value occurs twice')
    how = HowToRun(args.jobs, args.workers, args.threads, args.save_every)
    if args.control and CONTROLS[args.task] not in args.mixers:
        args.mixers = [CONTROLS[args.task], *args.mixers]
    same = ('position', 'images', 'curriculum', 'curriculum_share', 'batch', 'draw', 'precision', 'device')
    options = {name: getattr(args, name) for name in same}
    runs = runs_of(task, args.mixers, args.seeds, args.chance_seeds, steps=steps, **options)
    for run in runs:
        check_workers(run, args.workers)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda: torch sees no CUDA device here')

    records = run_missing(runs, make_folder(args.out) / RECORDS, how)
    found = curves(records)
    title = (
        f'{task.task}, {" x ".join(map(str, task.grid))} tokens, cue {task.cue_side}, {task.distractors} distractors, '
        f'noise {task.noise:g}, position {args.position}, {steps} steps{more_settings(runs[0])}'
    )
    show(table(found, f'Accuracy in %: {title}'), width=160)
    print(f'In brackets: {interval_kind(found)}. {SAYS[task.task]} {SAYS_ALWAYS}')
    stem = args.out / f'{KIND}_{task.task}'
    write_file(stem.with_suffix('.md'), markdown(found))
    write_runs(stem.with_suffix('.csv'), records)
    figures = save(draw(found, title), stem)
    print(', '.join(map(str, [args.out / RECORDS, stem.with_suffix('.csv'), stem.with_suffix('.md'), *figures])))


if __name__ == '__main__':
    run_command(main)
