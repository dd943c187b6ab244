"""The generated parts of pages: functions of the project's folder and the part's arguments that return Markdown."""

import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from mmbackbones.analysis.complexity.table import COLUMNS, to_markdown
from mmbackbones.analysis.evidence import page as evidence
from mmbackbones.analysis.long_range.show import markdown
from mmbackbones.analysis.pages import published
from mmbackbones.analysis.pages.answer import answer, cost
from mmbackbones.analysis.pages.committed import Rows, distinct, long_range_curves, read
from mmbackbones.analysis.pages.networks import networks
from mmbackbones.analysis.pages.published import SCORES, SHOWN
from mmbackbones.analysis.tables import markdown_table, read_csv
from mmbackbones.zoo.published import Match, match, network_and_task

ARM = 'an arm of the controlled experiment'  # the remark of zoo/published/configs.csv
Counts = dict[tuple[str, str], dict[str, str]]  # rows of complexity.csv by network and task


def results(root: Path, *networks: str) -> str:
    """The rows of docs/results.csv with counts of complexity.csv and published scores.

    With networks, a short table of these alone, with their names in the zoo and without the column of our own scores.
    """
    counts = _common(root)
    shown = read_csv(root / 'docs' / 'results.csv')
    if networks:
        return _short_results(counts, {line['network']: line for line in shown}, networks)
    rows = []
    for line in shown:
        cells = []
        for task in SCORES:
            row = counts[line['network'], task]
            cells += [_cost(row), _scores(match(row['config']), task), '']
        rows.append([line['name'], line['token mixer'], *cells])
    head = ['backbone', 'token mixer']
    head += ['Mask R-CNN 1x: params / MACs', f'{SHOWN["detection"]}, published', 'ours']
    head += ['UperNet 160k: params / MACs', f'{SHOWN["segmentation"]}, published', 'ours']
    return f'{_counted(list(counts.values()))}\n\n{markdown_table(head, rows)}'


def _short_results(counts: Counts, shown: dict[str, dict[str, str]], networks: Sequence[str]) -> str:
    rows, used = [], []
    for network in networks:
        cells = []
        for task in SCORES:
            row = counts[network, task]
            used.append(row)
            cells += [_cost(row), _scores(match(row['config']), task) or '-']
        rows.append([f'`{network.replace("-", "_")}`', shown[network]['token mixer'], *cells])
    head = ['name', 'token mixer', 'Mask R-CNN', SHOWN['detection'], 'UperNet', SHOWN['segmentation']]
    return f'{markdown_table(head, rows)}\n{_counted(used)}'


def _common(root: Path) -> Counts:
    """Counts under the common recipe by network and task."""
    return {
        network_and_task(row['config']): row
        for row in read(root, 'complexity.csv')
        if row['recipe'] == 'common' and '_fcn-1x1_' not in row['config']
    }


def family(root: Path, task: str, folder: str) -> str:
    """The networks of configs/FOLDER for a task under the common recipe, beside the published rows."""
    paths = (root / 'configs' / folder).glob('*.py')
    networks = {name for name, of in map(network_and_task, paths) if of == task}
    counts = {name: row for (name, of), row in _common(root).items() if of == task and name in networks}
    lines = []
    for name, row in sorted(counts.items(), key=lambda item: (item[0].split('-')[0], float(item[1]['params_M']))):
        found = match(row['config'])
        beyond = found.row.beyond_plain if found.row and not found.remark else ''
        lines.append([name, _cost(row), found.remark or _published(found), _scores(found, task), beyond, ''])
    head = ['network', 'params / MACs, counted', 'published', SHOWN[task], 'beyond the plain recipe', 'ours']
    if not any(line[4] for line in lines):
        head, lines = [*head[:4], head[5]], [[*line[:4], line[5]] for line in lines]
    sources = dict.fromkeys(row['source'] for row in counts.values() if row['source'] and not row['remark'])
    about = f'Published: {"; ".join(sources)}. ' if sources else ''
    notes = ''.join(f'* `{name}`: {row["why_apart"]}\n' for name, row in counts.items() if row['why_apart'])
    texts = (markdown_table(head, lines), notes, about + _counted(list(counts.values())))
    return '\n'.join(text for text in texts if text)


def _published(found: Match) -> str:
    costs = ((found.row.params, 'M'), (found.row.macs, 'G')) if found.row else ()
    return ' / '.join(f'{cost:g} {unit}' if cost else '-' for cost, unit in costs)


def _cost(row: dict[str, str]) -> str:
    return f'{float(row["params_M"]):.1f} M / {float(row["macs_G"]):.0f} G'


def _scores(found: Match, task: str) -> str:
    """Published scores, if the published network is the network of our config."""
    if found.row is None or found.remark or not found.row.metrics:
        return ''
    return published.scores(found.row.metrics, task)


def _counted(rows: Rows) -> str:
    torch, timm, date, commit = (distinct(rows, name) for name in ('torch', 'timm', 'date', 'commit'))
    shapes = ' and '.join(sorted({f'{row["height"]}x{row["width"]}' for row in rows}, reverse=True))
    return f'Counted at {shapes} px with torch {torch} and timm {timm}, {date}, commit {commit}.'


def complexity(root: Path) -> str:
    """Every config except the quickstart's and the arms of the controlled experiment, which have no published rows."""
    counted = read(root, 'complexity.csv')
    rows = [row for row in counted if row['recipe'] != 'quickstart' and row['remark'] != ARM]
    texts = ('config', 'task', 'recipe', 'published_row', 'remark', 'why_apart', 'source')
    typed: list[dict[str, object]] = []
    for row in rows:
        numbers = {name: float(row[name]) if row[name] else None for name in COLUMNS if name not in texts}
        words = {name: row[name] or None for name in texts}
        typed.append({**numbers, **words, 'height': int(row['height']), 'width': int(row['width'])})
    return f'{len(rows)} of {len(counted)} configs. {_counted(rows)}\n\n{to_markdown(typed)}'


def controlled(root: Path, name: str) -> str:
    """Cost of each arm of the controlled experiment, and its distance from MambaOut, the first row."""
    rows = read(root, name)
    lines = [[row['mixer'], row['where'], *_arm_cells(row, rows[0])] for row in rows]
    head = ['mixer', 'where', 'parameters (M)', 'against `none`', 'MACs (G)', 'against `none`']
    return f'{markdown_table(head, lines)}\n{_counted_arms(rows, name)}'


def controlled_equal(root: Path, equal_params: str, equal_macs: str) -> str:
    """The same for both adjusted widths, side by side."""
    groups = [read(root, name) for name in (equal_params, equal_macs)]
    lines = []
    for pair in zip(*groups):
        cells = [_arm_cells(row, group[0]) for row, group in zip(pair, groups)]
        joined = [[f'{x[0]} ({x[1]})', f'{x[2]} ({x[3]})'] if x[1] else x[:2] for x in cells]
        lines.append([pair[0]['mixer'], pair[0]['where'], *joined[0], *joined[1]])
    head = ['mixer', 'where', 'equal params: M', 'MACs (G)', 'equal MACs: M', 'MACs (G)']
    names = f'{equal_params}`, `{equal_macs}'
    return f'{markdown_table(head, lines)}\n{_counted_arms([*groups[0], *groups[1]], names)}'


def _arm_cells(row: dict[str, str], none: dict[str, str]) -> list[str]:
    if not row['params']:
        return ['not possible', '', '', '']
    cells = []
    for column, unit in (('params', 1e6), ('macs', 1e9)):
        count = int(row[column])
        cells += [f'{count / unit:.2f}', f'{count / int(none[column]) - 1:+.1%}']
    return cells


def _counted_arms(rows: Rows, name: str) -> str:
    torch, date, commit = (distinct(rows, column) for column in ('torch', 'date', 'commit'))
    return f'Counted with torch {torch}, {date}, commit {commit}; `{name}`.'


def scan(root: Path, name: str, *cases: str) -> str:
    """A benchmark of the scan: the default backend in ns per element, the others in multiples of it."""
    rows = [row for row in read(root, name) if not cases or row['case'].startswith(cases)]
    default, others, _ = _methods(rows)
    lines = []
    for (case, shape, passes), group in groupby(rows, lambda row: (row['case'], row['shape'], row['pass'])):
        by_method = {row['method']: row for row in group}
        first = by_method[default]
        lines.append(
            [f'{case} {shape}', passes, f'{float(first["ns_per_element"]):.2f} ns, {float(first["peak_mb"]):.0f} MB']
            + [_times(by_method.get(method)) for method in others]
        )
    return (
        f'{markdown_table(["case (B, D, L, N, groups)", "pass", default, *others], lines)}\n{_conditions(rows, name)}'
    )


def _times(row: dict[str, str] | None) -> str:
    if row is None or not row['times_default']:
        return '-'
    return f'x{float(format(float(row["times_default"]), ".3g")):g}'  # 1760, not 1.76e+03


def _methods(rows: Rows) -> tuple[str, list[str], list[str]]:
    """The default backend, what is compared with it, and its bounds."""
    (default,) = {row['method'] for row in rows if row['times_default'] == '1'}
    bounds = list(dict.fromkeys(row['method'] for row in rows if ' reaches ' in row['note']))
    known = dict.fromkeys(row['method'] for row in rows)
    return default, [method for method in known if method not in (default, *bounds)], bounds


def bounds(root: Path, name: str, *cases: str) -> str:
    """Speed of the default backend's forward pass relative to its bounds."""
    rows = [row for row in read(root, name) if row['case'].startswith(cases) and row['pass'] == 'forward']
    default, _, names = _methods(rows)
    lines = []
    for case, group in groupby(rows, lambda row: row['case']):
        ns = {row['method']: float(row['ns_per_element'] or 'nan') for row in group}
        cells = [cell for bound in names for cell in (f'{ns[bound]:.2f} ns', f'{100 * ns[bound] / ns[default]:.0f} %')]
        lines.append([case, f'{ns[default]:.2f} ns', *cells])
    return markdown_table(['case', default, *(cell for bound in names for cell in (bound, 'share'))], lines)


def speed(root: Path, name: str, varied: str) -> str:
    """Time and memory of one model against one column."""
    rows = read(root, name)
    more = ['tokens'] if varied == 'size' else []
    lines = [
        [row[varied], *(row[column] for column in more), f'{float(row["median_ms"]) / 1e3:.2f}']
        + [f'{float(row["peak_mb"]):.0f} MB', row['peak_bytes_per_token']]
        for row in rows
    ]
    head = [varied, *more, 'seconds', 'peak above model and image', 'bytes per token']
    return f'{markdown_table(head, lines)}\n{_conditions(rows, name)}'


def _conditions(rows: Rows, name: str) -> str:
    columns = ('device', 'dtype', 'versions', 'clock', 'date')
    return f'{", ".join(distinct(rows, column) for column in columns)}, commit {distinct(rows, "commit")}; `{name}`.'


def miniatures(root: Path) -> str:
    """Scores of quickstart-size models on the generated shapes."""
    rows = read(root, 'miniature_training.csv')
    scores = ('box_AP50', 'box_AP', 'mask_AP', 'mIoU', 'untrained')
    lines = []
    for row in rows:
        kind, _, _, name = row['config'].split('_', 3)  # as in mask-rcnn_1xb4-300_shapes-coco_vim_mini
        lines.append([row['backbone'], f'`{name}`, {kind}', *(row[score] for score in scores)])
    head = ['backbone', 'miniature, head', 'box AP50', 'box AP', 'mask AP', 'mIoU', 'untrained (AP50 or mIoU)']
    device, torch, date = (distinct(rows, name) for name in ('device', 'torch', 'date'))
    about = f'{len(rows)} trainings; {device}, torch {torch}, {date}; `miniature_training.csv`.'
    return f'{markdown_table(head, lines)}\n{about}'


def long_range(root: Path, name: str) -> str:
    """Accuracy against distance, one row per mixer, with its measured chance."""
    rows = read(root, name)
    return f'{markdown(long_range_curves(rows))}\n{_runs(rows, name)}'


def far_ends(root: Path, name: str) -> str:
    """Accuracy of mixers with one setting of the task at its hardest value."""
    rows = read(root, name)
    settings = ('cue_side', 'distractors', 'noise')
    usual = {key: statistics.mode(row[key] for row in rows) for key in settings}
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        turned = [f'`--{key.replace("_", "-")} {row[key]}`' for key in settings if row[key] != usual[key]]
        bins = lines.setdefault((', '.join(turned) or 'none', row['mixer']), {})
        bins[f'{row["first"]}-{row["last"]}'] = f'{100 * int(row["correct"]) / int(row["total"]):.1f}'
    heads = list(next(iter(lines.values())))
    ordered = sorted(lines.items(), key=lambda line: line[0][0] != 'none')
    return (
        markdown_table(['setting changed', 'mixer', *heads], [[*key, *bins.values()] for key, bins in ordered])
        + f'\n{_runs(rows, name)}'
    )


def _runs(rows: Rows, name: str) -> str:
    device, torch, backend, date, commit = (
        distinct(rows, column) for column in ('device', 'torch', 'scan_backend', 'date', 'commit')
    )
    return f'{device}, torch {torch}, {backend} scan, {date}, commit {commit}; `{name}`.'


PARTS: dict[str, Callable[..., str]] = {
    'answer': answer,
    'cost': cost,
    'results': results,
    'family': family,
    'complexity': complexity,
    'controlled': controlled,
    'controlled-equal': controlled_equal,
    'scan': scan,
    'scan-bounds': bounds,
    'speed': speed,
    'speed-networks': networks,
    'miniatures': miniatures,
    'long-range': long_range,
    'far-ends': far_ends,
    'evidence': evidence.part,
    'published': published.rows,
    'published-words': published.words,
}
