"""The answer so far, in sentences and one table from committed tables."""

import math
from pathlib import Path

from scipy.stats import linregress

from mmbackbones.analysis.evidence.choices import METRICS
from mmbackbones.analysis.evidence.points import collect
from mmbackbones.analysis.evidence.regression import estimate
from mmbackbones.analysis.evidence.show import interval
from mmbackbones.analysis.long_range.curves import Curve
from mmbackbones.analysis.pages.committed import Rows, distinct, long_range_curves, read
from mmbackbones.analysis.tables import markdown_table

SPEED, ROW = 'speed_vim-deit.csv', 'long_range_row.csv'
FIRST = ('published', 'length', 'cost', 'reach', 'missing')  # the README's lines
STRIDE, WIDTH = 16, 384  # of the threshold's example: patches of 16 px, and the channels of DeiT-S and Vim-S


def answer(root: Path, *names: str) -> str:
    """What published scores say, what long sequences cost, how far a scan sees, and what is missing.

    Args:
        names: only these sentences, without their heads, in one paragraph.
    """
    speed, row = read(root, SPEED), read(root, ROW)
    sentences = dict(
        growth=_growth(speed),
        cost=_cost(speed),
        reach=_reach(long_range_curves(row)),
        length=_length(),
        published=_published(),
        missing='No full-size training of this project is finished, and nothing has run on a GPU. '
        '`python tools/analysis/run_suite.py configs/suites/controlled.yaml` is the experiment that is missing: it '
        'fine-tunes MambaOut and changes the token mixer alone.',
    )
    if names:
        return ' '.join(sentences[name] for name in names)
    lines = [f'* **{name.capitalize()}.** {sentences[name]}' for name in FIRST]
    reach = (
        f'Reach: {distinct(row, "device")}, torch {distinct(row, "torch")}, {distinct(row, "date")}, '
        f'commit {distinct(row, "commit")}, `{ROW}`.'
    )
    return '\n'.join(lines) + f'\n\nCost: {_conditions(speed)} {reach}'


def cost(root: Path) -> str:
    """Time and memory of Vim-tiny against image size, and of DeiT-tiny in multiples of them."""
    rows = read(root, SPEED)
    lines = []
    for vim, *others in zip(_arm(rows, 'vim', ''), _arm(rows, 'deit', 'fused'), _arm(rows, 'deit', 'materialised')):
        cells = [vim['size'], vim['tokens'], f'{float(vim["median_ms"]):.0f} ms, {float(vim["peak_mb"]):.0f} MB']
        cells += [f'x{_times(other, vim, "median_ms")}, x{_times(other, vim, "peak_mb")}' for other in others]
        lines.append(cells)
    head = ['px', 'tokens', 'Vim-tiny: time, memory', 'DeiT-tiny, sdpa', 'DeiT-tiny, eager']
    return f'{markdown_table(head, lines)}\nOf {_conditions(rows)}'


def _conditions(rows: Rows) -> str:
    return (
        f'backbones alone, batch 1, float32, {distinct(rows, "device")}, {distinct(rows, "versions").split(",")[0]}, '
        f'{distinct(rows, "date")}, commit {distinct(rows, "commit")}, `{SPEED}`. `sdpa` is the fused attention of '
        'torch, `eager` stores the matrix of weights.'
    )


def _length() -> str:
    tokens, small = (800 // STRIDE) * (1280 // STRIDE), (224 // STRIDE) ** 2
    return (
        'The quadratic part of attention costs more than the rest of a block beyond 6 D tokens, where D is the number '
        f'of channels. COCO at 800x1280 has {tokens:,} tokens of {STRIDE} px, {tokens / (6 * WIDTH):.2f} times this '
        f'threshold at D = {WIDTH}. ImageNet at 224x224 has {small}, {small / (6 * WIDTH):.2f} times.'
    )


def _published() -> str:
    box, mask, miou = (interval(estimate(collect(metric)[0], 'SSM against conv')) for metric in METRICS)
    plain = interval(estimate(collect('AP_box', only_plain=True)[0], 'SSM against conv'))
    return (
        'At equal ImageNet accuracy, published SSM (state-space model) networks differ from convolutional ones by '
        f'{box} box AP and {mask} mask AP (COCO), and by {miou} mIoU (ADE20K). With rows of the plain recipe only, box '
        f'AP differs by {plain}. The brackets are 95 % intervals over families ([docs/evidence.md](docs/evidence.md), '
        '`python tools/analysis/evidence.py`). Recipes differ, so this is no experiment.'
    )


def _times(row: dict[str, str], of: dict[str, str], column: str) -> str:
    return f'{float(row[column]) / float(of[column]):.1f}'


def _arm(rows: Rows, network: str, attention: str) -> Rows:
    return [row for row in rows if f'_{network}-' in row['config'] and row['attention'] == attention]


def _growth(rows: Rows) -> str:
    def exponent(network: str, attention: str) -> str:
        arm = _arm(rows, network, attention)
        fit = linregress(
            [math.log(int(row['tokens'])) for row in arm], [math.log(float(row['median_ms'])) for row in arm]
        )
        return f'{fit.slope:.2f} ({fit.stderr:.2f})'

    return (
        f"On one CPU thread, Vim-tiny's time grows as tokens to the power of {exponent('vim', '')} and DeiT-tiny's of "
        f'{exponent("deit", "fused")} with sdpa attention, {exponent("deit", "materialised")} with eager attention '
        '(standard errors in brackets).'
    )


def _cost(rows: Rows) -> str:
    vim, deit = _arm(rows, 'vim', ''), _arm(rows, 'deit', 'fused')

    first, last = vim[0], vim[-1]
    return (
        f"DeiT-tiny (sdpa) takes {_times(deit[0], first, 'median_ms')} times Vim-tiny's time at {first['size']} px "
        f'({int(first["tokens"]):,} tokens), and {_times(deit[-1], last, "median_ms")} times its time and '
        f'{_times(deit[-1], last, "peak_mb")} times its memory at {last["size"]} px ({int(last["tokens"]):,}).'
    )


def _reach(found: list[Curve]) -> str:
    by_name = {curve.mixer: curve for curve in found}
    scan, conv = by_name['ss2d'], by_name['dw7']
    far = [place for place, name in enumerate(scan.bins) if int(name.split('-')[0]) > 12]  # outside dw7's field
    first, last = scan.bins[far[0]].split('-')[0], scan.bins[far[-1]].split('-')[1]

    def accuracy(curve: Curve) -> str:
        low, high = min(curve.low[place] for place in far), max(curve.high[place] for place in far)
        mean = sum(curve.mean[place] for place in far) / len(far)
        return f'{100 * mean:.1f} % ({100 * low:.0f} to {100 * high:.0f}, {curve.seeds} seeds)'

    return (
        f'On the synthetic task `row` ([docs/long_range.md](docs/long_range.md)), cues are {first} to {last} tokens '
        f'away. Four blocks of a four-direction scan answer {accuracy(scan)} correctly, four of a 7x7 convolution '
        f'{accuracy(conv)}. The brackets are the widest 95 % interval. Chance is 25 %; these convolutions see 12 '
        'tokens at most.'
    )
