"""The probe's records and what they say: accuracy against distance with intervals, and a sentence per mixer.

Tables and figures are made from records and from nothing else.
"""

import csv
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from scipy import stats

from mmbackbones.analysis.long_range.train import Arm, run_arm
from mmbackbones.datasets.long_range import COLOURS
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.records import append_record, read_records
from mmbackbones.ops.selective_scan import selective_scan_backend

NOMINAL_CHANCE = 1 / COLOURS
# Shares of the way from chance to the best possible accuracy.
ABOVE_CHANCE, LEARNED = 0.25, 0.75
SETTINGS = (
    'task',
    'tokens',
    'cue_side',
    'distractors',
    'noise',
    'position',
    'steps',
    'images',
    'mixer',
    'seed',
    'shuffled',
)
BIN = ('first', 'last', 'total', 'correct', 'low', 'high')
SAYS = {
    'row': 'row tests distance in the image, not length of sequence: a scan along rows carries a cue over at most '
    'n - 1 steps. Attention needs a position code to know its row.',
    'routed': 'routed tests routing by content over the whole sequence. An arm that sees which colours there are, but '
    'not whose key is whose, can beat a quarter; the measured chance includes that.',
    'single': 'single is a smoke test and a detector of leaks: whatever sees the whole image solves it, a global '
    'average too. It says nothing about routing.',
}
SAYS_ALWAYS = (
    'The net has one stage, norms per token and a head per token; nothing here speaks about nets of several stages or '
    'real heads. An arm that fails in the near bins too did not train: that says nothing about how far it sees. A scan '
    'that runs away from the cue looks the same.'
)


def to_record(arm: Arm, result: dict) -> dict:
    """The line that a finished run leaves: what ``run_arm`` returned, and where."""
    settings = arm.settings()
    data = {key: settings[key] for key in ('task', 'tokens', 'cue_side', 'distractors', 'noise', 'images')}
    recipe = {key: settings[key] for key in ('steps', 'position')}
    return dict(
        kind='probe',
        config=f'probe_{arm.task.task}_{arm.mixer}',
        config_hash=_digest({key: value for key, value in settings.items() if key != 'seed'}),
        recipe='probe ' + ' '.join(f'{key}={value}' for key, value in recipe.items()),
        data_fingerprint=_digest(data),
        seed=arm.seed,
        precision='fp32',
        scan_backend=selective_scan_backend('cpu').name,
        metrics={bin_name(each): each['correct'] / max(1, each['total']) for each in result['bins']},
        settings=settings,
        result={key: value for key, value in result.items() if key not in settings},
        **environment(),
    )


def bin_name(each: dict) -> str:
    """``'5-8'``: distances in tokens."""
    return f'{each["first"]}-{each["last"]}'


def find_record(arm: Arm, records: Iterable[dict]) -> dict | None:
    """The latest record of the very same run."""
    same = [record for record in records if record['kind'] == 'probe' and record['settings'] == arm.settings()]
    return same[-1] if same else None


def run_all(runs: Sequence[Arm], path: Path) -> list[dict]:
    """Train and test what ``path`` has no record of yet, one after the other, and say so on stdout.

    Args:
        runs: which.
        path: file of records; a run is in it before the next one starts, so nothing is lost when this is stopped.

    Returns:
        list[dict]: records of ``runs`` in their order, then those of other mixers and seeds that the file has under
            the same settings.

    Raises:
        InputError: the file exists and cannot be read.
    """
    known = read_records(path) if path.exists() else []
    records = []
    for number, arm in enumerate(runs, 1):
        record = find_record(arm, known)
        state = 'done before'
        if record is None:
            record = to_record(arm, run_arm(arm))
            append_record(path, record)
            state = f'{record["result"]["seconds"]:.0f} s'
        scores = ', '.join(
            f'{bin_name(each)}: {100 * record["metrics"][bin_name(each)]:.1f}' for each in record['result']['bins']
        )
        name = f'{arm.mixer}, seed {arm.seed}{", cues shuffled" if arm.task.shuffled else ""}'
        print(f'[{number}/{len(runs)}] {name}: {scores} ({state})', flush=True)
        records.append(record)
    wanted = [_common(arm.settings()) for arm in runs]
    more = {
        (record['config_hash'], record['seed']): record
        for record in known
        if record['kind'] == 'probe' and _common(record['settings']) in wanted
    }  # the latest of equal runs
    done = {(record['config_hash'], record['seed']) for record in records}
    return records + [record for run, record in more.items() if run not in done]


def _common(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key not in ('mixer', 'seed', 'shuffled')}


@dataclass(frozen=True)
class Curve:
    """Accuracy of one mixer against distance, everything in 0 .. 1.

    Attributes:
        mixer (str): its name.
        bins (list[str]): names of the distance bins.
        mean, low, high (list[float]): per bin. Of two and more seeds: the mean and its 95 % t interval over seeds; of
            one seed: its accuracy and the 95 % bootstrap interval over test images.
        chance (list[float]): mean accuracy of the same arm trained with shuffled cues, 0.25 where that was not run.
        seeds (int): how many.
        chance_seeds (int): how many shuffled runs; 0: chance was not measured.
        ceiling (float): the best accuracy there can be.
    """

    mixer: str
    bins: list[str]
    mean: list[float]
    low: list[float]
    high: list[float]
    chance: list[float]
    seeds: int
    chance_seeds: int
    ceiling: float

    def gains(self) -> list[float]:
        """Share of the way from chance to the ceiling, per bin."""
        return [
            (mean - chance) / (self.ceiling - chance) if self.ceiling > chance + 1e-9 else 0.0
            for mean, chance in zip(self.mean, self.chance)
        ]

    def verdict(self) -> str:
        """What may be said of the mixer. Only one that learned the near bin is said to see no further."""
        if self.ceiling <= NOMINAL_CHANCE:
            return 'nothing to learn: no arm can beat chance on this data'
        gains = self.gains()
        above = [gain >= ABOVE_CHANCE for gain in gains]
        if not any(above):
            return (
                f'did not train: hardly above chance in the near bin too ({100 * self.mean[0]:.1f} % at {self.bins[0]})'
            )
        if not above[0]:
            return 'uneven: above chance only at ' + ', '.join(name for name, is_ in zip(self.bins, above) if is_)
        if all(above):
            extent = 'above chance in every bin'
        else:
            extent = f'above chance up to {self.bins[above.index(False) - 1].split("-")[1]} tokens'
        if gains[0] < LEARNED:
            return f'{extent}; trained in part ({100 * self.mean[0]:.1f} % at {self.bins[0]}), so its reach is open'
        return extent


def curves(records: Sequence[dict]) -> list[Curve]:
    """One curve per mixer, in the order of the records, which agree in everything but mixer, seed and shuffling."""
    found = []
    for mixer in dict.fromkeys(record['settings']['mixer'] for record in records):
        mine = [record for record in records if record['settings']['mixer'] == mixer]
        runs = [record for record in mine if not record['settings']['shuffled']]
        shuffled = [record for record in mine if record['settings']['shuffled']]
        if not runs:
            continue
        bins = [bin_name(each) for each in runs[0]['result']['bins']]
        intervals = [seed_interval([run['metrics'][name] for run in runs]) for name in bins]
        if len(runs) == 1:
            intervals = [
                (each['correct'] / max(1, each['total']), each['low'], each['high'])
                for each in runs[0]['result']['bins']
            ]
        mean, low, high = map(list, zip(*intervals))
        chance = [
            statistics.fmean(run['metrics'][name] for run in shuffled) if shuffled else NOMINAL_CHANCE for name in bins
        ]
        settings = runs[0]['settings']
        ceiling = NOMINAL_CHANCE if settings['cue_side'] == 'none' else 1 / (1 + settings['distractors'])
        found.append(Curve(mixer, bins, mean, low, high, chance, len(runs), len(shuffled), ceiling))
    return found


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval of accuracies over seeds, cut to 0 .. 1; of a single value the value alone."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, mean, mean
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def interval_kind(found: Sequence[Curve]) -> str:
    """How the intervals of these curves were made, in words."""
    kinds = {
        '95 % t intervals over seeds'
        if curve.seeds > 1
        else '95 % bootstrap intervals over the test images of the one seed'
        for curve in found
    }
    return ' and '.join(sorted(kinds))


def table(found: Sequence[Curve], title: str) -> Table:
    """Accuracy in % with interval per mixer and bin, measured chance below each mixer."""
    grid = Table('mixer', *found[0].bins, 'seeds', 'verdict', title=title, title_justify='left')
    for curve in found:
        cells = [_cell(*values) for values in zip(curve.mean, curve.low, curve.high)]
        grid.add_row(curve.mixer, *cells, str(curve.seeds), curve.verdict())
        if curve.chance_seeds:
            grid.add_row(
                '  chance',
                *(f'{100 * value:.1f}' for value in curve.chance),
                str(curve.chance_seeds),
                'cues shuffled',
                style='dim',
            )
    return grid


def markdown(found: Sequence[Curve]) -> str:
    """The same as a Markdown table."""
    rows = [['mixer', *found[0].bins, 'seeds', 'verdict'], ['---'] * (len(found[0].bins) + 3)]
    for curve in found:
        cells = [_cell(*values) for values in zip(curve.mean, curve.low, curve.high)]
        rows.append([curve.mixer, *cells, str(curve.seeds), curve.verdict()])
        if curve.chance_seeds:
            rows.append(['its chance', *(f'{100 * value:.1f}' for value in curve.chance), str(curve.chance_seeds), ''])
    return ''.join('| ' + ' | '.join(row) + ' |\n' for row in rows)


def plot(found: Sequence[Curve], title: str, stem: Path) -> list[Path]:
    """Accuracy against distance with intervals, and the mean of the measured chances: ``stem``.png and .svg."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    markers = 'osD^v<>PXhd*p'
    with pyplot.rc_context({'svg.hashsalt': 'mmbackbones', 'svg.fonttype': 'none'}):
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout='constrained')
        places = range(len(found[0].bins))
        for number, curve in enumerate(found):
            shift = 0.05 * (number - (len(found) - 1) / 2)  # so that curves at one height stay visible
            below, above = ([100 * abs(a - b) for a, b in zip(curve.mean, ends)] for ends in (curve.low, curve.high))
            axes.errorbar(
                [place + shift for place in places],
                [100 * value for value in curve.mean],
                yerr=(below, above),
                marker=markers[number % len(markers)],
                capsize=3,
                label=curve.mixer,
            )
        chance = [100 * statistics.fmean(values) for values in zip(*(curve.chance for curve in found))]
        measured = all(curve.chance_seeds for curve in found)
        axes.plot(places, chance, color='0.4', linestyle='--', label='chance, cues shuffled' if measured else 'chance')
        axes.set_xticks(places, found[0].bins)
        axes.set(xlabel='distance to the deciding cue (tokens)', ylabel='accuracy (%)', ylim=(0, 104))
        axes.set_title(title, loc='left', fontsize='medium')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
        paths = [stem.with_suffix('.png'), stem.with_suffix('.svg')]
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={'Date': None})
        pyplot.close(figure)
    return paths


def write_csv(records: Sequence[dict], path: Path) -> None:
    """One line per run and distance bin, with settings, device, versions, date and commit on each."""
    with path.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(
            [*SETTINGS, *BIN, 'accuracy', 'seconds', 'device', 'torch', 'python', 'scan_backend', 'date', 'commit']
        )
        for record in records:
            settings = [record['settings'][key] for key in SETTINGS]
            about = [
                record['result']['seconds'],
                record['device'],
                record['versions']['torch'],
                record['python'],
                record['scan_backend'],
                record['date'][:10],
                record['commit'],
            ]
            for each in record['result']['bins']:
                accuracy = each['correct'] / max(1, each['total'])
                writer.writerow([*settings, *(each[key] for key in BIN), f'{accuracy:.4f}', *about])


def _cell(mean: float, low: float, high: float) -> str:
    return f'{100 * mean:.1f} ({100 * low:.0f}-{100 * high:.0f})'


def _digest(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
