"""The answer so far, in a few sentences from committed tables: the README's list."""

import math
from pathlib import Path

from scipy.stats import linregress

from mmbackbones.analysis.long_range.curves import Curve
from mmbackbones.analysis.pages.committed import Rows, distinct, long_range_curves, read

SPEED, ROW = 'speed_vim-deit.csv', 'long_range_row.csv'
STRIDE, WIDTH = 16, 384  # of the threshold's example: patches of 16 px, and the channels of DeiT-S and Vim-S


def answer(root: Path) -> str:
    """How cost grows, what it is at both ends, how far a scan sees, how long the sequences are, and what is missing."""
    speed, row = read(root, SPEED), read(root, ROW)
    tokens = (800 // STRIDE) * (1280 // STRIDE)
    lines = [
        f'**Growth.** {_growth(speed)}',
        f'**Cost.** {_cost(speed)}',
        f'**Reach.** {_reach(long_range_curves(row))}',
        f'**Length.** Attention is dominated by its quadratic part beyond 6 D tokens. COCO at 800x1280 has {tokens:,} '
        f'tokens of {STRIDE} px, {tokens / (6 * WIDTH):.2f} times that at D = {WIDTH}; ImageNet at 224x224 has '
        f'{(224 // STRIDE) ** 2}, {(224 // STRIDE) ** 2 / (6 * WIDTH):.2f} times.',
        '**Accuracy.** No full-size training of this project is finished, and nothing has run on a GPU. The scores in '
        'the table below are published ones.',
    ]
    about = (
        f'Growth and Cost: backbones alone, batch 1, float32, {distinct(speed, "device")}, '
        f'{distinct(speed, "versions").split(",")[0]}, {distinct(speed, "date")}, `{SPEED}`. '
        f'Reach: {distinct(row, "device")}, torch {distinct(row, "torch")}, {distinct(row, "date")}, `{ROW}`.'
    )
    return '\n'.join(f'* {line}' for line in lines) + f'\n\n{about}'


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

    def times(place: int, column: str) -> str:
        return f'{float(deit[place][column]) / float(vim[place][column]):.1f}'

    first, last = vim[0], vim[-1]
    return (
        f"DeiT-tiny (sdpa) takes {times(0, 'median_ms')} times Vim-tiny's time at {first['size']} px "
        f'({int(first["tokens"]):,} tokens), and {times(-1, "median_ms")} times its time and {times(-1, "peak_mb")} '
        f'times its memory at {last["size"]} px ({int(last["tokens"]):,}).'
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
        f'On the synthetic long-range task, with cues {first} to {last} tokens away, four blocks of a four-direction '
        f'scan answer {accuracy(scan)} correctly and four of a 7x7 convolution {accuracy(conv)}; chance is 25 %.'
    )
