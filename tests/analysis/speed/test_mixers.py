"""The benchmark of token mixers: the published way computes the same, parity gates the ratios, the CSV names all."""

import csv

import pytest
import torch

from mmbackbones.analysis import timing
from mmbackbones.analysis.speed import mixers as mixer_benchmark
from mmbackbones.analysis.speed.methods import conditions, write_timings
from mmbackbones.analysis.speed.mixer_cases import CASES, METHODS, MixerCase
from mmbackbones.analysis.speed.mixers import PARITY, benchmark, tokens_of
from tests.conftest import ROOT

TINY = {'tiny-vim': MixerCase('vim', 8, (3, 4)), 'tiny-vmamba': MixerCase('vmamba', 8, (3, 4))}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for name, case in TINY.items():
        monkeypatch.setitem(CASES, name, case)
    monkeypatch.setattr(mixer_benchmark, 'PARITY_SIZE', (3, 5))
    monkeypatch.setattr(timing, 'SAMPLE_SECONDS', 0)


def measure(case, dtype=torch.float32):
    return {(row.direction, row.method): row for row in benchmark(case, list(METHODS), 'cpu', dtype, 3)}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=['fp32', 'bf16'])
@pytest.mark.parametrize('case', TINY)
def test_composed_and_published_way_compute_the_same(case, dtype):
    rows = measure(case, dtype)
    assert len(rows) == 8
    for direction in ('forward', 'forward+backward'):
        composed, copies = (rows[direction, method] for method in ('composed', 'copies'))
        assert composed.ratio == 1 and copies.ratio == pytest.approx(copies.median / composed.median)
        for row in (composed, copies):
            assert 0 < row.parity < PARITY[dtype] and len(row.seconds) == 3 and not row.note
            assert row.peak is not None
        triton, mamba_ssm = (rows[direction, method] for method in ('triton', 'mamba_ssm'))
        assert triton.note == 'the scan is not Triton here' and not triton.seconds
        assert mamba_ssm.note and not mamba_ssm.seconds


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device, and PyTorch sees none')
@pytest.mark.parametrize('dtype', PARITY, ids=str)
@pytest.mark.parametrize('case', ['vim-t-224', 'vmamba-t-stage2'])
def test_fused_layers_on_a_gpu(case, dtype):
    assert mixer_benchmark.unavailable('triton', 'cuda') is None
    assert mixer_benchmark.parity('triton', CASES[case], 'cuda', dtype) <= PARITY[dtype]


def test_no_ratio_without_parity(monkeypatch):
    wrong = dict(mixer_benchmark.WITH_COPIES, vim=lambda mixer, x: 1.01 * mixer_benchmark.vim_with_flips(mixer, x))
    monkeypatch.setattr(mixer_benchmark, 'WITH_COPIES', wrong)
    rows = measure('tiny-vim')
    assert rows['forward', 'copies'].ratio is None and rows['forward', 'copies'].note.startswith('PARITY FAILS: ')
    assert rows['forward', 'composed'].ratio == 1
    monkeypatch.setattr(mixer_benchmark, 'parity', lambda method, *_: 1 if method == 'composed' else 0)
    assert all(row.ratio is None for row in measure('tiny-vim').values())


def test_csv_names_the_conditions(tmp_path):
    write_timings(tmp_path / 'mixers.csv', list(measure('tiny-vmamba').values()), conditions('cpu', torch.float32))
    with open(tmp_path / 'mixers.csv') as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8 and lines[0]['shape'] == '(1,3,4,8)'
    for name in ('device', 'dtype', 'versions', 'commit', 'date', 'clock'):
        assert lines[0][name], name


def test_cases_are_those_of_the_models():
    assert [tokens_of(case).shape[1] for case in map(CASES.get, ('vim-t-224', 'vim-t-512', 'vim-t-1248'))] == [
        197,
        1025,
        6085,
    ]
    sizes = [CASES[f'vmamba-t-stage{stage}'].size for stage in range(1, 5)]
    assert [height * width for height, width in sizes] == [64000, 16000, 4000, 1000]


def test_command(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT / 'tools' / 'analysis')
    import benchmark_mixers

    options = ['--device', 'cpu', '--rounds', '1', '--csv', str(tmp_path / 'mixers.csv')]
    before = torch.get_num_threads()
    benchmark_mixers.main(['--cases', 'tiny-vim', '--methods', 'composed', 'copies', *options])
    torch.set_num_threads(before)
    assert 'tiny-vim (1,13,8)' in capsys.readouterr().out
    assert (tmp_path / 'mixers.csv').read_text().count('\n') == 5
    monkeypatch.setattr(mixer_benchmark, 'parity', lambda *_: 1)
    with pytest.raises(SystemExit, match='1'):
        benchmark_mixers.main(['--cases', 'tiny-vim', '--methods', 'composed', *options])
