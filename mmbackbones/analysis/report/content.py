"""What the report says, section by section, from records and saved predictions alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Canvas

from mmbackbones.analysis.compare.paired import Comparison, compare_runs
from mmbackbones.analysis.long_range.report import SAYS, SAYS_ALWAYS, Curve, curves, interval_kind
from mmbackbones.analysis.report.material import Material, gather
from mmbackbones.analysis.report.page import Figure, Picture, Section, Table, write_page
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS, draw_counts, interval
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.predictions import FinishedRun, Sample, annotation_file
from mmbackbones.evaluation.scores import score
from mmbackbones.zoo.published import match

PUBLISHED = {'box AP': 'AP_box', 'mask AP': 'AP_mask', 'mIoU': 'mIoU_ss', 'mIoU, multi-scale': 'mIoU_ms'}
PICTURES_PER_RUN = 3
QUESTION = (
    'MambaOut (Yu and Wang, CVPR 2025) argues that the state-space mixer (SSM) of Mamba is of no use for classifying '
    'images, but may be where sequences are long, as in detection and segmentation. This page shows what the runs at '
    'hand say about that.'
)


@dataclass(frozen=True)
class Score:
    """A run's score in percent, with its 95 % interval over images."""

    run: FinishedRun
    metric: str
    value: float
    low: float
    high: float
    published: float | None


def write_report(folders: Sequence[str | Path], out: str | Path, resamples: int = 1000, seed: int = 0) -> Path:
    """Report on everything below some work dirs.

    Args:
        folders: work dirs, or folders that hold some.
        out: folder of the report; an earlier report there is replaced.
        resamples: of every bootstrap.
        seed: of its draws.

    Returns:
        Path: the page.

    Raises:
        InputError: there is nothing to report on, or ``out`` holds something else.
    """
    material = gather(folders)
    scores = list(_scores(material, resamples, seed))
    comparisons = list(_comparisons(material, resamples, seed))
    sections = [
        Section('The question', [QUESTION]),
        _who_ran(material),
        _results(scores),
        _differences(comparisons),
        _against_tokens(material),
        _cost(material),
        _controlled(scores),
        _probe(material),
        _predictions(material),
        _limits(material, comparisons),
    ]
    made = environment()
    footer = (
        f'Made from {len(material.records)} records and {len(material.runs)} sets of predictions; bootstrap of '
        f'{resamples} resamples, seed {seed}; mmbackbones at commit {made["commit"]}, {made["date"]}.'
    )
    lead = 'Every number below comes from a record of a run; the tables are also in data/, the figures in figures/.'
    with matplotlib.rc_context({'svg.fonttype': 'none'}):  # text stays text
        return write_page(out, 'Visual Mamba on dense prediction', lead, sections, footer)


def _name(run: FinishedRun) -> str:
    folder = run.work_dir.name
    return f'{run.name} ({folder}, seed {run.record["seed"]})'


def _who_ran(material: Material) -> Section:
    rows = [
        [
            record['config'],
            record['task'],
            record['recipe'],
            record['seed'],
            record.get('iterations'),
            record['params'] / 1e6,
            record['precision'],
            record['scan_backend'],
            record['data_fingerprint'],
            record['images'],
            record['device'],
            record['versions'].get('torch'),
            record['commit'],
            record['date'][:10],
        ]
        for record in (run.record for run in material.runs)
    ]
    table = Table(
        'runs',
        'Finished runs whose predictions were kept.',
        [
            'config',
            'task',
            'recipe',
            'seed',
            'iterations',
            'parameters (M)',
            'precision',
            'scan backend',
            'data',
            'images tested',
            'device',
            'torch',
            'commit',
            'date',
        ],
        rows,
    )
    notes = [f'Left out or unfinished: {fault}.' for fault in material.faults]
    return Section('Who ran, under which recipe', [table, *notes] if rows else ['No finished runs.', *notes])


def _scores(material: Material, resamples: int, seed: int) -> Iterable[Score]:
    for run in material.runs:
        detection = run.record['task'] == 'detection'
        try:
            sample = Sample(run, annotation_file(run) if detection else None)
            values = score(run, sample, draw_counts(len(sample.image_ids), resamples, seed), splits=())
        except InputError as error:
            material.faults.append(f'no interval for {_name(run)}: {error}')
            continue
        published = match(run.record['config'], run.record['recipe']).row
        for (metric, _, _), drawn in values.items():
            name = f'{metric}, multi-scale' if run.record.get('tta') else metric
            theirs = published.metrics.get(PUBLISHED[name]) if published and run.record['recipe'] == 'common' else None
            yield Score(run, name, float(drawn[0]), *interval(drawn[1:]), theirs)


def _results(scores: Sequence[Score]) -> Section:
    if not scores:
        return Section('Results', ['No run has predictions to score.'])
    rows = [
        [
            _name(each.run),
            each.metric,
            each.value,
            each.low,
            each.high,
            'no published row' if each.published is None else each.published,
        ]
        for each in scores
    ]
    table = Table(
        'results',
        'Scores of the last checkpoint in percent, with 95 % bootstrap intervals over the test '
        'images, beside the published figure.',
        ['run', 'metric', 'score', 'low', 'high', 'published'],
        rows,
    )
    canvas = Canvas(figsize=(8, 1.2 + 0.32 * len(scores)), layout='constrained')
    axes = canvas.subplots()
    for place, each in enumerate(reversed(scores)):
        axes.errorbar(
            each.value, place, xerr=[[each.value - each.low], [each.high - each.value]], fmt='o', capsize=3, color='C0'
        )
        if each.published is not None:
            axes.plot(each.published, place, 'x', color='C3')
    labels = [f'{each.metric}: {each.run.name[:60]}' for each in reversed(scores)]
    axes.set_yticks(range(len(scores)), labels, fontsize=7)
    axes.set_xlabel('percent')
    axes.grid(axis='x', alpha=0.4)
    figure = Figure(
        'results',
        'Scores with 95 % intervals; a cross marks the published figure.',
        f'A row for each of {len(scores)} scores, each a dot with its interval: '
        + '; '.join(f'{each.metric} {each.value:.1f}' for each in scores[:12]),
        canvas,
    )
    note = (
        'The intervals are over images. They hold for these checkpoints and these images, and say nothing about '
        'another seed.'
    )
    return Section('Results', [table, figure, note])


def _comparisons(material: Material, resamples: int, seed: int) -> Iterable[Comparison]:
    for group in material.comparable():
        if len(group) > 1:
            try:
                yield compare_runs([run.folder for run in group], resamples, seed, splits=())
            except InputError as error:
                material.faults.append(f'no comparison: {error}')


def _differences(comparisons: Sequence[Comparison]) -> Section:
    rows = [
        [row.metric, row.arm, row.reference, row.difference, row.low, row.high, row.p_holm, row.about]
        for comparison in comparisons
        for row in comparison.differences
        if row.split == 'all'
    ]
    if not rows:
        return Section(
            'Differences',
            [
                'No two runs may be compared: they differ in recipe, data or evaluation, or '
                'there is only one. tools/analysis/compare.py names the keys.'
            ],
        )
    table = Table(
        'differences',
        'Paired differences in percentage points, with 95 % bootstrap intervals.',
        ['metric', 'arm', 'reference', 'difference', 'low', 'high', 'p (Holm)', 'speaks about'],
        rows,
    )
    return Section('Differences', [table, *(text for each in comparisons for text in (*each.sentences, *each.notes))])


def _against_tokens(material: Material) -> Section:
    title = 'Scores against tokens'
    ladders = material.of_kind('ladder')
    blocks = []
    counted = _lengths(material.of_kind('tokens'))
    if counted:
        blocks += [
            counted,
            'L tokens are long for width D when L > 6 D: from there on the quadratic term of attention '
            'costs more than everything linear (24 D^2 L + 4 D L^2 FLOPs per Transformer block).',
        ]
    if not ladders:
        return Section(
            title, [*blocks, 'No run was tested or trained at several sizes; tools/analysis/ladder.py does that.']
        )
    rows = [
        [
            Path(record['config']).stem,
            'trained' if record['trained'] == 'train' else 'tested',
            rung['metric'],
            rung['size'],
            rung['tokens'],
            rung['score'],
            rung['low'],
            rung['high'],
        ]
        for record in ladders
        for rung in record['rungs']
    ]
    canvas = Canvas(figsize=(7, 4), layout='constrained')
    axes = canvas.subplots()
    for record in ladders:
        for metric in dict.fromkeys(rung['metric'] for rung in record['rungs']):
            rungs = [rung for rung in record['rungs'] if rung['metric'] == metric and rung['tokens']]
            values = [rung['score'] for rung in rungs]
            error = [[rung['score'] - rung['low'] for rung in rungs], [rung['high'] - rung['score'] for rung in rungs]]
            axes.errorbar(
                [rung['tokens'] for rung in rungs],
                values,
                yerr=error,
                capsize=3,
                marker='o',
                label=f'{Path(record["config"]).stem[:40]}: {metric}',
            )
    axes.set(xlabel='tokens of 16 x 16 px', ylabel='percent', xscale='log')
    axes.legend(fontsize=7)
    blocks += [
        Figure(
            'ladder',
            'Scores against the number of tokens, with 95 % intervals over the test images.',
            'Scores in percent against tokens per image, a curve for each run and metric: '
            + '; '.join(f'{row[2]} {row[5]:.1f} at {row[3]} px' for row in rows[:12]),
            canvas,
        ),
        Table(
            'ladder',
            'Scores in percent by input size, with 95 % intervals over the test images.',
            ['config', 'at that size', 'metric', 'short side (px)', 'tokens', 'score', 'low', 'high'],
            rows,
        ),
    ]
    return Section(title, blocks)


def _lengths(records: Sequence[dict]) -> Table | None:
    rows = []
    for record in records:
        for stage in sorted({key.partition('.')[0] for key in record['metrics']}):
            of = {
                key.partition('.')[2]: value for key, value in record['metrics'].items() if key.startswith(f'{stage}.')
            }
            rows.append(
                [
                    Path(record['config']).stem,
                    stage.removeprefix('stage'),
                    of['stride'],
                    of['channels'],
                    of['median'],
                    of['threshold_6D'],
                    of['r_median'],
                    100 * of['long_share'],
                ]
            )
    return (
        Table(
            'tokens',
            'How long the sequences are, by stage.',
            [
                'config',
                'stage',
                'stride',
                'width D',
                'median tokens L',
                '6 D',
                'median L / (6 D)',
                '% of images that are long',
            ],
            rows,
        )
        if rows
        else None
    )


def _cost(material: Material) -> Section:
    title = 'Cost against tokens'
    records = material.of_kind('speed')
    if not records:
        return Section(title, ['Nothing was timed; tools/analysis/speed.py does that.'])
    arms: dict[str, list[dict]] = {}
    for record in records:
        what = [
            Path(record['config']).stem,
            record['part'],
            record['step'],
            f'batch {record["batch"]}',
            record['scan_backend'],
            record['attention'],
            record['precision'],
            record['device'],
        ]
        arms.setdefault(', '.join(filter(None, what)), []).append(record)
    rows = [
        [
            arm,
            record['size'],
            record['metrics']['tokens'],
            record['metrics']['median_ms'],
            record['metrics']['min_ms'],
            record['metrics']['max_ms'],
            record['metrics']['peak_mb'],
            record['note'] or None,
            record['commit'],
        ]
        for arm, group in arms.items()
        for record in group
    ]
    canvas = Canvas(figsize=(7, 4), layout='constrained')
    axes = canvas.subplots()
    for group in arms.values():
        timed = sorted(
            (record['metrics']['tokens'], record['metrics']['median_ms'])
            for record in group
            if record['metrics']['median_ms']
        )
        if timed:
            axes.plot(*zip(*timed), marker='o', label=_short(group[0]))
    axes.set(xlabel='tokens per image', ylabel='ms per batch', xscale='log', yscale='log')
    axes.legend(fontsize=6)
    return Section(
        title,
        [
            Figure(
                'cost',
                'Median time against tokens.',
                f'Time per batch against tokens per image on logarithmic axes, a curve for each of {len(arms)} set-ups',
                canvas,
            ),
            Table(
                'cost',
                'Medians with their range; only figures of one call may be set against each other.',
                [
                    'set-up',
                    'side (px)',
                    'tokens',
                    'median (ms)',
                    'fastest',
                    'slowest',
                    'peak memory (MB)',
                    'note',
                    'commit',
                ],
                rows,
            ),
        ],
    )


def _short(record: dict) -> str:
    network = record['config'].removeprefix('mask-rcnn_').partition('_')[0]
    return ', '.join(filter(None, [network, record['part'], record['step'], record['attention'], record['precision']]))


def _controlled(scores: Sequence[Score]) -> Section:
    rows = []
    for each in scores:
        backbone = each.run.record['settings']['model'].get('backbone', {})
        if backbone.get('type') in ('mmbackbones.GatedMixerNet', 'mmbackbones.IsotropicMixerNet'):
            mixers = backbone.get('mixers', 'none')
            rows.append(
                [
                    str(mixers),
                    backbone['type'].partition('.')[2],
                    str(backbone.get('arch')),
                    each.run.record['seed'],
                    each.metric,
                    each.value,
                    each.low,
                    each.high,
                ]
            )
    if not rows:
        return Section(
            'Token mixers, all else equal',
            ['No controlled run (configs/controlled) is among these: nothing here isolates the token mixer.'],
        )
    return Section(
        'Token mixers, all else equal',
        [
            'One network in which the token mixer alone changes. Only a branch that beats pointwise, which adds as '
            'many parameters without mixing tokens, gains by mixing them.',
            Table(
                'mixers',
                'Scores of the controlled networks in percent, with 95 % intervals over the test images.',
                ['mixer', 'network', 'arch', 'seed', 'metric', 'score', 'low', 'high'],
                rows,
            ),
        ],
    )


def _probe(material: Material) -> Section:
    records = material.of_kind('probe')
    if not records:
        return Section('The probe', ['The probe was not run; tools/analysis/probe.py does that.'])
    blocks = []
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record['settings']['task'], record['recipe'], record['data_fingerprint']), []).append(record)
    for number, ((task, recipe, _), group) in enumerate(groups.items()):
        found = curves(group)
        tokens = group[0]['settings']['tokens']
        if not found:
            continue
        title = f'{task}, {tokens} x {tokens} tokens, {recipe}'
        blocks += [
            Figure(
                f'probe-{number}-{task}',
                f'Accuracy against distance to the cue: {title}; {interval_kind(found)}.',
                'Accuracy in percent against distance in tokens, a curve for each mixer: '
                + '; '.join(
                    f'{curve.mixer} from {100 * curve.mean[0]:.0f} to {100 * curve.mean[-1]:.0f}' for curve in found
                ),
                _probe_plot(found),
            ),
            Table(
                f'probe-{number}-{task}',
                f'Accuracy in percent by distance: {title}.',
                ['mixer', *found[0].bins, 'seeds', 'verdict'],
                [[curve.mixer, *(100 * mean for mean in curve.mean), curve.seeds, curve.verdict()] for curve in found],
            ),
            SAYS[task],
        ]
    return Section('The probe', [*blocks, SAYS_ALWAYS])


def _probe_plot(found: Sequence[Curve]) -> Canvas:
    canvas = Canvas(figsize=(7, 4), layout='constrained')
    axes = canvas.subplots()
    for curve in found:
        mean, low, high = ([100 * value for value in values] for values in (curve.mean, curve.low, curve.high))
        error = [[m - x for m, x in zip(mean, low)], [x - m for m, x in zip(mean, high)]]
        axes.errorbar(range(len(mean)), mean, yerr=error, capsize=3, marker='o', label=curve.mixer)
    axes.axhline(25, color='grey', linestyle=':', label='guessing')
    axes.set_xticks(range(len(found[0].bins)), found[0].bins)
    axes.set(xlabel='distance to the cue in tokens', ylabel='accuracy in %', ylim=(0, 103))
    axes.legend(fontsize=8)
    return canvas


def _predictions(material: Material) -> Section:
    blocks = [
        Picture(path, f'Ground truth beside the prediction of {folder.name}: {path.stem}')
        for folder, paths in material.pictures.items()
        for path in paths[:PICTURES_PER_RUN]
    ]
    return Section(
        'Predictions',
        blocks or ['No painted predictions: tools/test.py CONFIG CHECKPOINT --show-dir WORK_DIR/pictures makes them.'],
    )


def _limits(material: Material, comparisons: Sequence[Comparison]) -> Section:
    """What a careful reader must not take from this page."""
    limits = []
    others = sorted({str(run.record['recipe']) for run in material.runs} - {'common'})
    if others:
        limits.append(
            f'Recipes other than the common one ran ({", ".join(others)}): their figures are not comparable '
            'to the published ones.'
        )
    if any(run.record['images'] < 500 for run in material.runs):
        limits.append(
            'Some test sets have fewer than 500 images: the intervals are wide, and miniature data shows '
            'that everything works, not which network is better.'
        )
    if not any(row.about == 'methods' for each in comparisons for row in each.differences):
        limits.append(
            f'No comparison has {SEEDS_FOR_METHODS} seeds per arm: nothing here is about methods, only about '
            'checkpoints.'
        )
    limits += [
        'A difference between whole networks does not isolate the SSM: they differ in width, depth, stem and '
        'pretraining too. Only the controlled networks change the mixer alone.',
        'Pyramid pooling and detection heads give every backbone a global view; how far a backbone itself sees '
        'is asked by the probe and by the context-free head.',
        'COCO and ADE20K have at most a few thousand tokens at stride 16; nothing is said about longer sequences.',
    ]
    return Section("What can't be concluded", limits + [f'{fault}.' for fault in material.faults])
