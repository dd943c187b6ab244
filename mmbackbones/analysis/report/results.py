"""The report's sections on results: runs, scores, differences, mixers, pictures, and limits."""

from collections.abc import Sequence

from mmbackbones.analysis.compare.paired import Comparison
from mmbackbones.analysis.figures import new_figure
from mmbackbones.analysis.report.gather import ReportData, Score, name_of
from mmbackbones.analysis.report.page import Figure, Picture, Section, Table
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS
from mmbackbones.evaluation.predictions import FinishedRun

PICTURES_PER_RUN = 3
FEW_IMAGES = 500
QUESTION = (
    'MambaOut (Yu and Wang, CVPR 2025) argues that the state-space mixer (SSM) of Mamba is of no use for classifying '
    'images, but may be where sequences are long, as in detection and segmentation. This page shows what the runs at '
    'hand say about that.'
)


def question() -> Section:
    return Section('The question', [QUESTION])


def who_ran(data: ReportData) -> Section:
    """Every run with its recipe, data, device and commit, and the items left out."""
    columns = {
        'config': lambda record: record['config'],
        'task': lambda record: record['task'],
        'recipe': lambda record: record['recipe'],
        'seed': lambda record: record['seed'],
        'iterations': lambda record: record.get('iterations'),
        'parameters (M)': lambda record: record['params'] / 1e6,
        'precision': lambda record: record['precision'],
        'scan backend': lambda record: record['scan_backend'],
        'data': lambda record: record['data_fingerprint'],
        'images tested': lambda record: record['images'],
        'device': lambda record: record['device'],
        'torch': lambda record: record['versions'].get('torch'),
        'commit': lambda record: record['commit'],
        'date': lambda record: record['date'][:10],
    }
    rows = [[value(run.record) for value in columns.values()] for run in data.runs]
    table = Table('runs', 'Finished runs whose predictions were kept.', list(columns), rows)
    notes = [f'Left out or unfinished: {fault}.' for fault in data.faults]
    return Section('Who ran, under which recipe', [table, *notes] if rows else ['No finished runs.', *notes])


def results(scores: Sequence[Score]) -> Section:
    """Scores with intervals beside the published ones."""
    if not scores:
        return Section('Results', ['No run has predictions to score.'])
    rows = [
        [
            name_of(each.run),
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
    note = (
        'The intervals are over images. They hold for these checkpoints and these images, and say nothing about '
        'another seed.'
    )
    return Section('Results', [table, _results_figure(scores), note])


def _results_figure(scores: Sequence[Score]) -> Figure:
    canvas = new_figure(8, 1.2 + 0.32 * len(scores))
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
    return Figure(
        'results',
        'Scores with 95 % intervals; a cross marks the published figure.',
        f'A row for each of {len(scores)} scores, each a dot with its interval: '
        + '; '.join(f'{each.metric} {each.value:.1f}' for each in scores[:12]),
        canvas,
    )


def differences(comparisons: Sequence[Comparison]) -> Section:
    """Paired differences, and the conclusion from each."""
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


def controlled(scores: Sequence[Score]) -> Section:
    """Scores of the networks that differ only in their token mixer."""
    rows = [
        [*_mixer(each.run), each.run.record['seed'], each.metric, each.value, each.low, each.high]
        for each in scores
        if _backbone(each.run).get('type') in ('mmbackbones.GatedMixerNet', 'mmbackbones.IsotropicMixerNet')
    ]
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
                ['arm', 'network', 'arch', 'seed', 'metric', 'score', 'low', 'high'],
                rows,
            ),
        ],
    )


def _backbone(run: FinishedRun) -> dict:
    return run.record['settings']['model'].get('backbone', {})


def _mixer(run: FinishedRun) -> list[str]:
    backbone = _backbone(run)
    arm = run.record.get('arm') or str(backbone.get('mixers', 'none'))
    return [arm, backbone['type'].partition('.')[2], str(backbone.get('arch'))]


def predictions(data: ReportData) -> Section:
    """Some images of predictions of every run."""
    pictures = [
        Picture(path, f'Ground truth beside the prediction of {folder.name}: {path.stem}')
        for folder, paths in data.pictures.items()
        for path in paths[:PICTURES_PER_RUN]
    ]
    hint = 'No painted predictions: tools/test.py CONFIG CHECKPOINT --show-dir WORK_DIR/pictures makes them.'
    return Section('Predictions', pictures or [hint])


def limits(data: ReportData) -> Section:
    """Conclusions that this page does not support."""
    found = []
    others = sorted({str(run.record['recipe']) for run in data.runs} - {'common'})
    if others:
        found.append(
            f'Recipes other than the common one ran ({", ".join(others)}): their figures are not comparable '
            'to the published ones.'
        )
    if any(run.record['images'] < FEW_IMAGES for run in data.runs):
        found.append(
            f'Some test sets have fewer than {FEW_IMAGES} images: the intervals are wide, and miniature data shows '
            'that everything works, not which network is better.'
        )
    if not any(row.about == 'methods' for each in data.comparisons for row in each.differences):
        found.append(
            f'No comparison has {SEEDS_FOR_METHODS} seeds per arm: nothing here is about methods, only about '
            'checkpoints.'
        )
    found += [
        'A difference between whole networks does not isolate the SSM: they differ in width, depth, stem and '
        'pretraining too. Only the controlled networks change the mixer alone.',
        'Pyramid pooling and detection heads give every backbone a global view. How far a backbone itself sees is '
        'asked by the synthetic long-range task and by the context-free head.',
        'COCO and ADE20K have at most a few thousand tokens at stride 16; nothing is said about longer sequences.',
    ]
    return Section("What can't be concluded", found + [f'{fault}.' for fault in data.faults])
