"""The benchmark of the selective scan: peers compute the same, parity gates the ratios, the CSV says where it ran."""

import csv

import pytest
import torch

from mmbackbones.analysis import timing
from mmbackbones.analysis.speed import scan as scan_benchmark
from mmbackbones.analysis.speed import scan_peers
from mmbackbones.analysis.speed.methods import conditions, write_timings
from mmbackbones.analysis.speed.scan import benchmark, expected_seconds
from mmbackbones.analysis.speed.scan_cases import BOUNDS, CASES, ScanCase
from tests.conftest import ROOT

TINY = ScanCase(1, 8, 40, 4, 1, True)
GROUPED = ScanCase(1, 8, 40, 1, 4, False)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(CASES, 'tiny', TINY)
    monkeypatch.setitem(CASES, 'grouped', GROUPED)
    monkeypatch.setattr(scan_benchmark, 'PARITY_LENGTH', 20)
    monkeypatch.setattr(timing, 'SAMPLE_SECONDS', 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measure(case, methods, **limits):
    limits = dict(rounds=3, limit=60, limit_gb=1) | limits
    return {(row.direction, row.method): row for row in benchmark(case, methods, 'cpu', torch.float32, **limits)}


def test_peers_compute_the_same_scan():
    rows = measure('tiny', ['chunk', 'mamba_ssm loop', 'Hugging Face loop'])
    assert len(rows) == 6
    for row in rows.values():
        assert row.parity < 1e-5 and len(row.seconds) == 3 and row.peak is not None and not row.note
    rows = measure('grouped', ['mamba_ssm loop', 'Hugging Face loop'])
    assert rows['forward', 'mamba_ssm loop'].parity < 1e-5
    assert rows['forward', 'Hugging Face loop'].note == 'one group only'


def test_ratios_are_to_the_default_backend():
    default = scan_benchmark.selective_scan_backend('cpu').name
    rows = measure('tiny', [default, 'naive', *BOUNDS])
    assert rows['forward', default].ratio == 1
    row = rows['forward', 'naive']
    assert row.ratio == pytest.approx(row.median / rows['forward', default].median)
    for name in BOUNDS:
        assert ('forward+backward', name) not in rows
        if default == 'cpu':
            row = rows['forward', name]
            assert row.note == f'cpu reaches {row.median / rows["forward", default].median:.0%} of it'


def test_no_ratio_without_parity(monkeypatch):
    default = scan_benchmark.selective_scan_backend('cpu').name
    right = scan_peers.mamba_ssm_loop
    monkeypatch.setattr(scan_peers, 'mamba_ssm_loop', lambda *x: 1.001 * right(*x))
    row = measure('tiny', [default, 'mamba_ssm loop'])['forward', 'mamba_ssm loop']
    assert row.ratio is None and row.note.startswith('PARITY FAILS: ')


def test_too_slow_and_too_large_are_left_out_by_name(monkeypatch):
    monkeypatch.setattr(scan_benchmark, 'expected_seconds', lambda *x: 100)
    assert measure('tiny', ['chunk'])['forward', 'chunk'].note == 'left out: about 100 s a call'
    row = measure('tiny', ['naive'], limit_gb=1e-6)['forward', 'naive']
    assert row.note.startswith('left out: about') and row.note.endswith('GB') and not row.seconds


def test_the_loops_backward_is_expected_to_be_quadratic(monkeypatch):
    monkeypatch.setattr(scan_benchmark, 'seconds_of', lambda *x: 1.0)
    inputs = ('mamba_ssm loop', TINY, 'forward+backward', 'cpu', torch.float32)
    assert expected_seconds(*inputs) == 4
    assert expected_seconds('chunk', *inputs[1:]) == 2


def test_missing_extras_are_skipped_by_name(monkeypatch):
    monkeypatch.setattr(scan_benchmark.importlib.util, 'find_spec', lambda name: None)
    assert measure('tiny', ['mambapy'])['forward', 'mambapy'].note == 'mambapy is not installed'


def test_csv_names_the_conditions(tmp_path):
    rows = list(measure('tiny', ['chunk']).values())
    write_timings(tmp_path / 'scan.csv', rows, conditions('cpu', torch.float32))
    with open(tmp_path / 'scan.csv') as file:
        lines = list(csv.DictReader(file))
    assert [line['method'] for line in lines] == ['chunk', 'chunk']
    for name in ('device', 'dtype', 'versions', 'commit', 'date', 'clock'):
        assert lines[0][name], name
    assert float(lines[0]['median_ms']) > 0 and lines[0]['shape'] == '(1,8,40,N=4,G=1)'


@pytest.mark.skipif(not (ROOT / 'benchmarks' / 'scan_cpu.csv').exists(), reason='not measured yet')
def test_published_measurements_are_complete():
    with open(ROOT / 'benchmarks' / 'scan_cpu.csv') as file:
        lines = list(csv.DictReader(file))
    assert {line['case'] for line in lines} == set(CASES) - {'tiny', 'grouped'}
    assert not [line for line in lines if line['note'].startswith('PARITY')]
    assert all(line['device'] and line['commit'] for line in lines)
