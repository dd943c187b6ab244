"""The benchmark of token mixers: the published way computes the same, parity gates the ratios, the CSV names all."""

import csv
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from mmbackbones.analysis import timing
from mmbackbones.analysis.speed import methods
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


def test_official_operators_take_the_convolution_of_causal_conv1d(monkeypatch):
    module = ModuleType('causal_conv1d', 'a stand-in')
    module.__spec__ = ModuleSpec(module.__name__, None)
    used = []

    def causal_conv1d_fn(u, weight, bias, activation):
        used.append((weight.shape, activation))
        taps = weight.shape[1]
        x = torch.nn.functional.pad(u, (taps - 1, 0)).unfold(2, taps, 1)
        return torch.nn.functional.silu((x * weight[:, None]).sum(-1) + bias[:, None])

    module.causal_conv1d_fn = causal_conv1d_fn
    mixer, x = mixer_benchmark.layer_of(TINY['tiny-vim']), tokens_of(TINY['tiny-vim'], batch=2)
    expected = mixer_benchmark.vim_with_flips(mixer, x)
    assert mixer_benchmark.with_official_operators('vim') is mixer_benchmark.vim_with_flips
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.testing.assert_close(mixer_benchmark.with_official_operators('vim')(mixer, x), expected)
    assert used == [((16, 4), 'silu')] * 2
    assert mixer_benchmark.with_official_operators('vmamba') is mixer_benchmark.vmamba_with_copies


def test_batches_replays_and_the_wall_clock_are_columns(tmp_path, monkeypatch):
    def costs(calls, rounds, device):
        return {
            name: timing.Cost([6.0 * i], wall=[8.0 * i], replay=[] if name == 'copies' else [i], note='why not')
            for i, name in enumerate(calls, 1)
        }

    monkeypatch.setattr(methods, 'measure_in_turns', costs)
    rows = list(benchmark('tiny-vim', list(METHODS), 'cpu', torch.float32, 1, batch=3))
    assert {row.shape for row in rows} == {'(3,13,8)'} and rows[0].elements == 2 * 3 * 13 * 8
    write_timings(tmp_path / 'mixers.csv', rows, conditions('cpu', torch.float32))
    with open(tmp_path / 'mixers.csv') as file:
        written = {row['method']: row for row in csv.DictReader(file)}
    composed, copies = written['composed'], written['copies']
    columns = ('median_ms', 'times_default', 'replay_ms', 'replay_times_default', 'wall_ms', 'note')
    assert [composed[name] for name in columns] == ['6000', '1', '1000', '1', '8000', 'why not']
    assert [copies[name] for name in columns] == ['1.2e+04', '2', '', '', '1.6e+04', 'why not']
    assert [column.header for column in methods._table(rows).columns].count('x base') == 2


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
    with open(tmp_path / 'mixers.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row['replay_ms'] == '' and float(row['wall_ms']) > 0 for row in rows)
    with pytest.raises(SystemExit, match='2'):
        benchmark_mixers.main(['--batch', '0'])
    assert "argument --batch: '0': expected 1 and more" in capsys.readouterr().err
    monkeypatch.setattr(mixer_benchmark, 'parity', lambda *_: 1)
    with pytest.raises(SystemExit, match='1'):
        benchmark_mixers.main(['--cases', 'tiny-vim', '--methods', 'composed', *options])
