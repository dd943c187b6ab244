"""The report's sections on results: scores, differences, mixers, pictures, limits, and the runs."""

from collections.abc import Sequence

from mmbackbones.analysis.compare.comparison import Comparison
from mmbackbones.analysis.compare.names import network_of
from mmbackbones.analysis.compare.show import COVERS, range_of
from mmbackbones.analysis.figures import new_figure
from mmbackbones.analysis.report.gather import ReportData
from mmbackbones.analysis.report.page import Figure, Picture, Section, Table
from mmbackbones.analysis.report.scores import Score
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS
from mmbackbones.evaluation.predictions import FinishedRun

PICTURES_PER_RUN = 3
FEW_IMAGES = 500
QUESTION = (
    'MambaOut (Yu and Wang, CVPR 2025) argues that the state-space mixer (SSM) of Mamba is of no use for classifying '
    'images, but may be where sequences are long, as in detection and segmentation. This page shows what the runs at '
    'hand say about that.'
)
SOURCES = (
    'Every number comes from a record of a run. The tables are also in data/, with more columns, and the figures in '
    'figures/.'
)
# Columns of the table of runs that always stand in it; the others only if the runs differ in them.
ALWAYS = ('network', 'task', 'seed', 'iterations', 'parameters (M)', 'images tested')


def who_ran(data: ReportData) -> Section:
    """The question, every run with its recipe, data, device and commit, and the items left out."""
    columns = {
        'network': network_of,
        'task': lambda record: f'{record["task"]}, multi-scale' if record.get('tta') else record['task'],
        'seed': lambda record: record['seed'],
        'iterations': lambda record: record.get('iterations'),
        'parameters (M)': lambda record: record['params'] / 1e6,
        'images tested': lambda record: record['images'],
        'recipe': lambda record: record['recipe'],
        'precision': lambda record: record['precision'],
        'scan backend': lambda record: record['scan_backend'],
        'device': lambda record: record['device'],
        'torch': lambda record: record['versions'].get('torch'),
        'commit': lambda record: record['commit'],
        'date': lambda record: record['date'][:10],
        'data': lambda record: record['data_fingerprint'],
        'config': lambda record: record['config'],
    }
    notes = [f'Left out or unfinished: {fault}.' for fault in data.faults]
    if not data.runs:
        return Section('The runs', notes)
    rows = [[value(run.record) for value in columns.values()] for run in data.runs]
    shared = {
        name: values[0]
        for name, *values in zip(columns, *rows)
        if name not in ALWAYS and all(value == values[0] for value in values)
    }
    same = ', '.join(f'{name} {value}' for name, value in shared.items() if value is not None)
    table = Table(
        'runs',
        'Finished runs whose predictions were kept.',
        list(columns),
        rows,
        in_file_only=(*shared, 'config'),
    )
    return Section('The runs', [QUESTION, table, *([f'The same for all: {same}.'] if same else []), SOURCES, *notes])


def results(scores: Sequence[Score]) -> Section:
    """Scores of arms, with range and interval, beside the published ones."""
    if not scores:
        return Section('Results')
    rows = [
        [
            each.name,
            each.metric,
            each.seeds,
            f'{each.value:.2f}',
            range_of(each.by_run) or 'one run',
            f'{each.low:.2f} to {each.high:.2f}',
            each.published,
        ]
        for each in scores
    ]
    table = Table(
        'results',
        'Scores of the last checkpoints in percent: mean and range over the seeds, the 95 % bootstrap interval of the '
        'mean over the test images, and the published figure where there is one for this recipe.',
        ['network', 'metric', 'seeds', 'mean', 'range over seeds', 'interval over images', 'published'],
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
    labels = [f'{each.metric}: {each.name[:60]}' for each in reversed(scores)]
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
    """Paired differences, and the conclusion from each. A p-value stands beside those that speak of methods."""
    rows = [
        [
            row.metric,
            row.arm,
            row.reference,
            f'{row.difference:+.2f}',
            f'{row.low:+.2f} to {row.high:+.2f}',
            COVERS[row.about],
            f'{row.p_holm:.3g}' if row.about == 'methods' else None,
        ]
        for comparison in comparisons
        for row in comparison.differences
        if row.split == 'all'
    ]
    if not rows:
        return Section('Differences')
    table = Table(
        'differences',
        'Paired differences in percentage points.',
        ['metric', 'network', 'reference', 'difference', '95 % interval', 'interval over', 'p (Holm)'],
        rows,
    )
    return Section('Differences', [table, *(text for each in comparisons for text in (*each.sentences, *each.notes))])


def controlled(scores: Sequence[Score]) -> Section:
    """Scores of the networks that differ only in their token mixer."""
    rows = [
        [
            *_mixer(each.runs[0]),
            each.metric,
            each.seeds,
            f'{each.value:.2f}',
            range_of(each.by_run) or 'one run',
            f'{each.low:.2f} to {each.high:.2f}',
        ]
        for each in scores
        if _is_controlled(each.runs[0])
    ]
    if not rows:
        return Section('Token mixers, all else equal')
    return Section(
        'Token mixers, all else equal',
        [
            'One network in which the token mixer alone changes. Only a branch that beats pointwise, which adds as '
            'many parameters without mixing tokens, gains by mixing them.',
            Table(
                'mixers',
                'Scores of the controlled networks in percent: mean and range over the seeds, and the 95 % interval of '
                'the mean over the test images.',
                ['arm', 'network', 'arch', 'metric', 'seeds', 'mean', 'range over seeds', 'interval over images'],
                rows,
            ),
        ],
    )


def _backbone(run: FinishedRun) -> dict:
    return run.record['settings']['model'].get('backbone', {})


def _is_controlled(run: FinishedRun) -> bool:
    return _backbone(run).get('type') in ('mmbackbones.GatedMixerNet', 'mmbackbones.IsotropicMixerNet')


def _mixer(run: FinishedRun) -> list[str]:
    backbone = _backbone(run)
    arm = run.record.get('arm') or str(backbone.get('mixers', 'none'))
    return [arm, backbone['type'].partition('.')[2], str(backbone.get('arch'))]


def predictions(data: ReportData) -> Section:
    """Some images of predictions of every run, those with the most objects."""
    names = {run.work_dir: network_of(run.record) for run in data.runs}
    return Section(
        'Predictions',
        [
            Picture(path, f'Ground truth beside the prediction of {names.get(folder, folder.name)}: {path.stem}')
            for folder, paths in data.pictures.items()
            for path in paths[:PICTURES_PER_RUN]
        ],
    )


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
    if not any(_is_controlled(run) for run in data.runs):
        found.append('No controlled run (configs/controlled) is among these: nothing here isolates the token mixer.')
    missing = {
        'two runs that may be compared (tools/analysis/compare.py names what differs)': data.comparisons,
        'scores at several sizes (tools/analysis/resolution_sweep.py)': data.sweeps,
        'time and memory (tools/analysis/speed.py)': data.timings,
        'the synthetic long-range task (tools/analysis/long_range.py)': data.long_range,
        'painted predictions (tools/test.py --show-dir WORK_DIR/pictures)': data.pictures,
    }
    absent = [what for what, there in missing.items() if not there]
    if absent:
        found.append(f'Not among these runs, and so not on this page: {", ".join(absent)}.')
    found += [
        'A difference between whole networks does not isolate the SSM: they differ in width, depth, stem and '
        'pretraining too. Only the controlled networks change the mixer alone.',
        'Pyramid pooling and detection heads give every backbone a global view. How far a backbone itself sees is '
        'asked by the synthetic long-range task and by the context-free head.',
        'COCO and ADE20K have at most a few thousand tokens at stride 16; nothing is said about longer sequences.',
    ]
    return Section("What can't be concluded", found)
