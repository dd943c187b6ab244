"""Time and memory of the forward pass: what the command reports, and what Vim must reach."""

import csv
import sys

import numpy as np
import pytest

from mmbackbones.analysis.speed import conditions, measure, write_csv
from mmbackbones.errors import InputError
from tests.conftest import ROOT

MINI = str(ROOT / 'configs/quickstart/mask-rcnn_vim-mini_sfp_1xb4-300_shapes-coco.py')
VIM_TINY = str(ROOT / 'configs/vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py')


@pytest.mark.slow
def test_rows_and_csv(tmp_path):
    rows = list(measure(MINI, [64, 96], ['chunked', 'reference'], rounds=2))
    assert [(row.size, row.tokens, row.backend) for row in rows] == [
        (64, 64, 'chunked'), (64, 64, 'reference'), (96, 144, 'chunked'), (96, 144, 'reference')]
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in rows)
    assert rows[2].ratio == 1 and rows[3].ratio == rows[3].median / rows[2].median
    write_csv(rows, tmp_path / 'speed.csv', conditions(MINI, 1))
    with (tmp_path / 'speed.csv').open() as file:
        lines = list(csv.DictReader(file))
    assert [line['backend'] for line in lines] == ['chunked', 'reference'] * 2
    assert lines[0]['config'] == 'mask-rcnn_vim-mini_sfp_1xb4-300_shapes-coco' and lines[0]['commit']


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is read from /proc')
def test_memory_is_linear_in_tokens():
    """Bytes per token beyond those of 512 px agree up to what the allocator rounds; were they linear in the tokens
    themselves, they would differ threefold.
    """
    rows = list(measure(VIM_TINY, [512, 1024, 1248, 2048], rounds=1))
    tokens, peaks = (np.array([getattr(row, name) for row in rows]) for name in ('tokens', 'peak'))
    per_token = (peaks[1:] - peaks[0]) / (tokens[1:] - tokens[0])
    assert per_token.max() < 4 / 3 * per_token.min(), per_token


@pytest.mark.full
def test_vim_tiny_is_ten_times_as_fast_as_the_loop():
    """Processor time of one thread at 1248x1248; a factor far from what disturbances change."""
    _, loop = measure(VIM_TINY, [1248], ['native', 'reference'], rounds=1)
    assert loop.ratio >= 10


@pytest.mark.parametrize('options, message', [
    (dict(sizes=[]), '--sizes : expected sides of 64 px and more'),
    (dict(sizes=[512, 63]), '--sizes 512 63: expected'),
    (dict(sizes=[64], rounds=0), '--rounds 0 --threads 1: expected 1 and more'),
    (dict(sizes=[64], backends=['quick']), "backend is 'quick', expected"),
])
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        list(measure(MINI, **options))


def test_missing_config():
    with pytest.raises(InputError, match=r'nowhere\.py: no such config file'):
        list(measure('nowhere.py', [64]))
