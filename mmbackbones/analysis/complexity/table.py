"""Parameters and MACs of many configs, beside the published rows, as CSV and Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from rich.table import Table

from mmbackbones.analysis.complexity.count import OLDER_RULE, ONE_UNIT, SCAN_RULES, SHAPES, Complexity, count_complexity
from mmbackbones.analysis.complexity.rules import describe, explain, remark_on
from mmbackbones.analysis.records import config_record
from mmbackbones.analysis.tables import markdown_table, rich_table, write_csv
from mmbackbones.engine.command import CONSTRUCTOR_ERRORS
from mmbackbones.engine.config import ARM_KEY, load_config, run_name
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.layers.arms import ARMS
from mmbackbones.zoo.models import miniature_names
from mmbackbones.zoo.published import Match, match

CLASSIFIERS = 'imagenet-'  # in the names of their configs; the table is of dense tasks
NOT_COUNTED = ('_base_', 'tasks')  # folders of parts, which are no models
COLUMNS = (
    'config',
    'task',
    'recipe',
    'height',
    'width',
    'params_M',
    'auxiliary_params_M',
    'macs_G',
    'backbone_macs_G',
    'neck_macs_G',
    'heads_macs_G',
    'scan_macs_G',
    'macs_G_older_scan_rule',
    'macs_G_scan_in_one_unit',
    'published_row',
    'published_params_M',
    'params_off_percent',
    'published_macs_G',
    'macs_off_percent',
    'macs_G_by_their_rules',
    'then_off_percent',
    'remark',
    'why_apart',
    'source',
)
MARKDOWN = {
    'config': 'config',
    'params_M': 'params (M)',
    'macs_G': 'MACs (G)',
    'backbone_macs_G': 'backbone',
    'scan_macs_G': 'its scans',
    'macs_G_older_scan_rule': 'MACs, older scan rule',
    'published_params_M': 'published params',
    'params_off_percent': 'off by %',
    'published_macs_G': 'published MACs',
    'macs_off_percent': 'off by % ',
    'then_off_percent': 'by their rules',
    'remark': 'remark',
    'why_apart': 'why apart',
}


class Counted(NamedTuple):
    """A config with a given backbone and arm."""

    config: Path
    backbone: str | None = None
    arm: str | None = None

    @property
    def name(self) -> str:
        return run_name(*self)


def all_configs(folder: str | Path) -> list[Counted]:
    """Every config of a detector or segmentor below a folder, with every miniature and every controlled arm.

    Raises:
        InputError: there is none.
    """
    paths = sorted(
        path
        for path in Path(folder).rglob('*.py')
        if not {*path.relative_to(folder).parts[:-1]} & {*NOT_COUNTED}
        and not path.stem.endswith('_base')
        and CLASSIFIERS not in path.stem
    )
    if not paths:
        raise InputError(f'{folder}: no configs below this folder')
    return [counted for path in paths for counted in _expand(path)]


def _expand(path: Path) -> list[Counted]:
    if path.parent.name == 'quickstart':
        # A file named after its miniature is a second name of a task's config.
        return [] if '-mini' in path.stem else [Counted(path, name) for name in miniature_names()]
    if 'controlled' in path.parts:
        network = 'GatedMixerNet' if 'gated' in path.name else 'IsotropicMixerNet'
        return [Counted(path, arm=arm) for arm in ARMS[network]]
    return [Counted(path)]


def record_of(cfg: Config, name: str, counts: Complexity) -> dict:
    """A record of kind ``'complexity'`` (see :mod:`mmbackbones.evaluation.records`), for the work dir of a run."""
    metrics = dict(params=counts.params['total'], macs=counts.total_macs())
    return config_record('complexity', cfg, f'{name}.py', metrics, shape=list(counts.shape))


def count_configs(
    configs: Iterable[str | Path | Counted], refused: list[str] | None = None
) -> Iterator[dict[str, object]]:
    """Count one row per config. Equal backbones are counted once, and necks and heads once per set of maps.

    Args:
        configs: paths, or configs with their backbone and arm.
        refused: takes a sentence for each config that cannot be counted, which then has no row.

    Yields:
        dict: the :data:`COLUMNS`; None for an empty cell.

    Raises:
        InputError: as :func:`load_config` and :func:`count_complexity`, without ``refused``.
    """
    cache = {}
    for config in configs:
        counted = config if isinstance(config, Counted) else Counted(Path(config))
        try:
            cfg = load_config(counted.config, {ARM_KEY: counted.arm} if counted.arm else None, counted.backbone)
            dense_task_of(cfg)  # refuses a classifier before it is counted
            counts = count_complexity(cfg, cache=cache)
        except (InputError, *CONSTRUCTOR_ERRORS) as error:
            if refused is None:
                raise
            kind = '' if isinstance(error, InputError) else f'{type(error).__name__}: '
            line, *_ = str(error).partition('\n')
            refused.append(f'{counted.name}: {kind}{line}')
        else:
            yield row_of(counted.name, cfg, counts, match(counted.config, backbone=counted.backbone))


def row_of(name: str, cfg: Config, counts: Complexity, found: Match) -> dict[str, object]:
    """The :data:`COLUMNS` of one config."""
    published = found.row
    heads = [name for name in counts.macs if name not in ('total', 'backbone', 'neck')]
    params, macs = counts.params['total'] / 1e6, counts.macs['total'] / 1e9
    steps = explain(cfg.model.backbone.type.rpartition('.')[2], counts, published)
    theirs = macs + sum(step.macs for step in steps) / 1e9 if steps else None
    row = dict(
        config=name,
        task=dense_task_of(cfg),
        recipe=cfg.get('recipe'),
        height=counts.shape[0],
        width=counts.shape[1],
        params_M=params,
        auxiliary_params_M=counts.params.get('auxiliary_head', 0) / 1e6,
        macs_G=macs,
        backbone_macs_G=counts.macs['backbone'] / 1e9,
        neck_macs_G=counts.macs.get('neck', 0) / 1e9,
        heads_macs_G=sum(counts.macs[name] for name in heads) / 1e9,
        scan_macs_G=counts.scan_macs() / 1e9,
        macs_G_older_scan_rule=counts.total_macs(OLDER_RULE) / 1e9,
        macs_G_scan_in_one_unit=counts.total_macs(ONE_UNIT) / 1e9,
        published_row=published and published.name,
        published_params_M=published and published.params,
        params_off_percent=_off(params, published and published.params),
        published_macs_G=published and published.macs,
        macs_off_percent=_off(macs, published and published.macs),
        macs_G_by_their_rules=theirs,
        then_off_percent=theirs and _off(theirs, published.macs),
        remark=found.remark or None,
        why_apart=remark_on(published),
        source=published and published.source,
    )
    assert tuple(row) == COLUMNS
    return row


def _off(ours: float, theirs: float | None) -> float | None:
    """Difference in percent; 0 if both round to the same number, because published ones are rounded."""
    if not theirs:
        return None
    return 0.0 if round(ours) == theirs else 100 * (ours / theirs - 1)


def write_counts(path: str | Path, rows: Sequence[dict[str, object]]) -> None:
    """One line per row by :data:`COLUMNS`, with date, commit and versions on each.

    Raises:
        InputError: the file cannot be written.
    """
    made = environment()
    about = dict(
        date=made['date'][:10],
        commit=made['commit'],
        torch=made['versions']['torch'],
        timm=made['versions']['timm'],
    )
    write_csv(path, COLUMNS, [[_text(row[name], 3) for name in COLUMNS] for row in rows], conditions=about)


def to_markdown(rows: Sequence[dict[str, object]]) -> str:
    """One table per task, without the miniatures of the quickstart."""
    lines, rows = [], [row for row in rows if row['recipe'] != 'quickstart']
    for task in sorted({row['task'] for row in rows}):
        chosen = [row for row in rows if row['task'] == task]
        shapes = sorted({(row['height'], row['width']) for row in chosen})
        lines += [
            f'### {task.capitalize()}, {", ".join(f"{h}x{w}" for h, w in shapes)} px',
            '',
            markdown_table(list(MARKDOWN.values()), [[_cell(row, name) for name in MARKDOWN] for row in chosen]),
        ]
    return '\n'.join(lines)


def _cell(row: dict[str, object], name: str) -> str:
    if name == 'config':
        return f'`{row["config"]}`' + (' (native)' if row['recipe'] == 'native' else '')
    if name in ('scan_macs_G', 'macs_G_older_scan_rule') and not row['scan_macs_G']:
        return ''
    if name in ('params_off_percent', 'macs_off_percent', 'then_off_percent') and row['remark']:
        return ''  # the published network is another one
    return _text(row[name], 1)


def _text(value: object, digits: int) -> str:
    if isinstance(value, float):
        return f'{value:.{digits}f}'.removesuffix(f'.{"0" * digits}')
    return '' if value is None else str(value)


def table_of(counts: Complexity, depth: int = 1) -> Table:
    """Counts of one model by module, for the terminal; ``depth`` as in dotted names of submodules."""
    rows = []
    for name, params in counts.params.items():
        rows.append([name, f'{params / 1e6:.2f}', f'{counts.macs[name] / 1e9:.1f}'])
        for module, macs in counts.submodules.items():
            if module.startswith(f'{name}.') and module.count('.') < depth:
                rows.append([module, '', f'{macs / 1e9:.2f}'])
    return rich_table(('module', 'parameters (M)', 'MACs (G)'), rows)


def sentences_on(counts: Complexity, found: Match, family: str) -> list[str]:
    """The scans by every rule, the published row, and why it differs.

    Args:
        counts: counts of the model.
        found: the published row to which it may be compared.
        family: class of the backbone, without scope.
    """
    sentences = []
    if counts.scans:
        sums = ', '.join(f'{counts.total_macs(rule) / 1e9:.1f} by {rule}' for rule in SCAN_RULES)
        sentences.append(f'all MACs (G) with the scan counted per element of (B, D, L): {sums}')
    if found.row is None:
        return [*sentences, f'no published row: {found.remark}']
    row = found.row
    numbers = f'{row.params:g} M' + (f', {row.macs:g} G' if row.macs else ', no MACs')
    remark = f'; {found.remark}' if found.remark else ''
    sentences.append(f'published as {row.name}: {numbers} ({row.source}){remark}')
    if counts.shape in SHAPES.values():
        sentences += [f'  {line}' for line in describe(family, counts, row)]
    return sentences
