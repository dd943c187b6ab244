"""The checks themselves, on the CPU: right backends pass, wrong ones are named."""

import pytest
import torch

from mmbackbones.analysis.gpu import benchmark, determinism, parity, scans, training, versions
from mmbackbones.analysis.gpu.choices import Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, SKIPPED
from mmbackbones.analysis.speed import mixers, scan
from mmbackbones.analysis.speed.methods import MethodTiming
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan.dispatch import get_backend

SHORT = ('all inputs', 'no softplus', 'windows with padding', 'states as output', 'one token')


@pytest.fixture
def short(monkeypatch):
    """Fewer options, the long scans among those left out."""
    monkeypatch.setattr(scans, 'OPTIONS', options := {name: scans.OPTIONS[name] for name in SHORT})
    for module in (parity, determinism):
        monkeypatch.setattr(module, 'OPTIONS', options)


@pytest.mark.parametrize('dtype', scan.PARITY, ids=str)
@pytest.mark.parametrize('backend', ['chunk', 'cpu'])
def test_parity_of_what_is_right(short, backend, dtype):
    found = parity.scan_parity('check', backend, 'cpu', dtype)
    assert found.status == OK, found.note
    assert found.figures['options'] == len(SHORT) and 0 < found.figures['error'] <= scan.PARITY[dtype]


def test_parity_names_what_is_wrong(short, monkeypatch):
    right = scans.outputs_of

    def wrong(inputs, options, backend, device):
        found = right(inputs, options, backend, device)
        if options.order and backend == 'cpu':
            found['grad_B'][..., 3] *= 1.01
        if options.softplus is False and backend == 'cpu':
            found['out'][..., 3] = torch.nan
        return found

    monkeypatch.setattr(parity, 'outputs_of', wrong)
    found = parity.scan_parity('check', 'cpu', 'cpu', torch.float32)
    assert found.status == FAILED and found.figures['error'] != found.figures['error']
    assert found.note == "worst: out of 'no softplus'; wrong: no softplus, windows with padding"


def test_what_a_backend_does_not_offer_is_told(short, monkeypatch):
    def refuses(inputs, options, backend, device):
        if backend == 'cpu' and options.order:
            raise InputError('no orders')
        return scans.outputs_of(inputs, options, backend, device)

    monkeypatch.setattr(parity, 'outputs_of', refuses)
    found = parity.scan_parity('check', 'cpu', 'cpu', torch.float32)
    assert found.status == OK and found.figures['options'] == len(SHORT) - 1
    assert found.note.endswith('not offered: windows with padding: no orders')


def test_a_backend_that_cannot_be_used_is_skipped_and_a_mixer_passes(monkeypatch):
    monkeypatch.setattr(mixers, 'PARITY_SIZE', (3, 5))
    monkeypatch.setattr(parity, 'scan_parity', lambda check, *_: parity.Finding(check))
    rows = {found.check: found for found in parity.findings(Settings('cpu'))}
    assert len(rows) == 5 * 3 + 2 * 4 * 3
    assert {row.status for row in rows.values()} == {OK, SKIPPED}
    assert rows['vim-t-224 by composed, float32'].figures['error'] < 1e-4
    assert rows['vmamba-t-stage2 by triton, bfloat16'].note == 'the scan is not Triton here'
    with pytest.raises(InputError, match='triton serves cuda tensors'):
        determinism.scan_twice('check', 'triton', 'cpu', torch.float32)


def test_options_reach_the_scan():
    """Each option changes what is computed; without that a row of the parity would repeat another."""
    base = scans.outputs_of(scans.inputs_of(scans.ScanOptions(), torch.float32), scans.ScanOptions(), 'cpu', 'cpu')
    for name in ('reverse', 'no softplus', 'without D, z and bias', 'gradient of the last state'):
        options = scans.OPTIONS[name]
        found = scans.outputs_of(scans.inputs_of(options, torch.float32), options, 'cpu', 'cpu')
        assert not torch.equal(found['grad_u'], base['grad_u']), name
    inputs = scans.inputs_of(scans.OPTIONS['channels last'], torch.bfloat16)
    assert inputs['z'].mT.is_contiguous() and inputs['z'].dtype == torch.bfloat16 and inputs['A'].dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_bits_twice(short, dtype):
    found = determinism.scan_twice('check', 'cpu', 'cpu', dtype)
    assert found.status == OK and found.figures['different'] == 0 and found.figures['compared'] > 40
    assert determinism.mixer_twice('check', 'vim-t-224', 'cpu', dtype).status == OK


def test_differing_bits_are_named():
    first, second = dict(out=torch.zeros(3), grad_u=torch.ones(2)), dict(out=-torch.zeros(3), grad_u=torch.ones(2))
    assert determinism.differences(first, second) == ['out']
    nan = dict(out=torch.full((2,), torch.nan))
    assert determinism.differences(nan, dict(out=nan['out'].clone())) == []
    assert determinism.verdict('check', 2, ['out'], False).status == FAILED
    told = determinism.verdict('check', 2, ['out'], True)
    assert told.status == OK and told.note == 'differ: out'


def test_benchmark_rows(monkeypatch):
    timing = MethodTiming('c', 's', 'forward', 'triton', 1, [0.002], 3_000_000, 0.0, 1.0, '', [0.004], [0.001], 1.0)
    found = benchmark.row_of('n16-1024, batch 4', timing)
    assert found.status == OK
    assert [found.figures[name] for name in ('replay_ms', 'events_ms', 'wall_ms', 'peak_mb')] == [1, 2, 4, 3]
    timing.note = 'PARITY FAILS: 1.0'
    assert benchmark.row_of('n', timing).status == FAILED
    assert benchmark.row_of('n', MethodTiming('c', 's', 'forward', 'm', 1, note='not installed')).status == SKIPPED

    def breaks(*_):
        yield timing
        raise RuntimeError('a kernel is broken')

    def fills(*_):
        yield timing
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 64 GiB')

    monkeypatch.setattr(scan, 'benchmark', breaks)
    monkeypatch.setattr(mixers, 'benchmark', lambda *_: [])
    rows = list(benchmark.findings(Settings('cpu')))
    assert [(row.check, row.status) for row in rows] == [
        (f'{case}, batch 1', FAILED) for case in benchmark.SCANS for _ in range(2)
    ]
    assert rows[1].note == 'RuntimeError: a kernel is broken'
    monkeypatch.setattr(scan, 'benchmark', fills)
    row = list(benchmark.findings(Settings('cpu')))[1]
    assert (row.status, row.note) == (SKIPPED, 'out of memory on this device')


@pytest.fixture(scope='module')
def trained():
    settings = Settings('cpu', 'quickstart/mask-rcnn_1xb4-300_shapes-coco', 64, 1)
    return list(training.findings(settings))


def test_a_detector_learns(trained):
    first, cost, share = trained
    assert [found.status for found in trained] == [OK] * 3, trained
    assert first.check == 'mask-rcnn_1xb4-300_shapes-coco, 1 images of 64 px, fp32'
    assert first.figures['skipped'] == 0 and 50 < first.figures['changed'] <= first.figures['weights']
    assert cost.figures['step_ms'] > 0 and 0 <= share.figures['scan_share'] <= 1


class Step:
    """Stands in for a network's step, with a scaler that lets the third step pass."""

    def __init__(self, passes=3, change=1.0, loss=1.0):
        self.model, self.scaler, self.scale, self.steps = torch.nn.Linear(1, 1), self, 65536.0, 0
        self.passes, self.change, self.loss = passes, change, loss

    def get_scale(self):
        return self.scale

    def __call__(self, images, samples):
        self.steps += 1
        if self.steps < self.passes:
            self.scale /= 2
        else:
            with torch.no_grad():
                self.model.weight += self.change
        return torch.tensor(self.loss)


@pytest.mark.parametrize(
    'step, status, note',
    [
        (Step(), OK, ''),
        (Step(passes=99), FAILED, '12 steps in a row have no finite gradients'),
        (Step(change=0), FAILED, 'no weight has changed, or the loss is not finite'),
        (Step(change=torch.inf), FAILED, 'not finite: weight'),
        (Step(loss=torch.nan), FAILED, 'no weight has changed, or the loss is not finite'),
    ],
    ids=['right', 'overflow', 'idle', 'infinite', 'nan'],
)
def test_a_step_that_teaches_nothing_fails(step, status, note):
    found = training.first_step('check', step, None, [])
    assert (found.status, found.note) == (status, note)
    if status == OK:
        assert found.figures == dict(loss=1.0, skipped=2, weights=2, changed=1)


def test_segmentor_is_refused():
    with pytest.raises(InputError, match=r'--config .*: trains no detector'):
        next(training.findings(Settings('cpu', 'quickstart/upernet_1xb8-500_shapes-ade20k-128x128', 64, 1)))


def test_versions(monkeypatch):
    rows = {found.check: found for found in versions.findings(Settings('cpu'))}
    assert rows['torch'].figures['version'].startswith('2.') and rows['backend chunk'].status == OK
    assert rows['backend mamba_ssm'].status == SKIPPED
    with pytest.raises(InputError, match='no no-such-program on PATH'):
        versions.answer(('no-such-program',))
    assert versions.answer(('printf', 'a\\nrelease 13\\nb\\n'), 'release') == dict(version='release 13')
    for name in ('triton', 'mamba_ssm'):
        monkeypatch.setattr(get_backend(name), 'available', lambda: 'not there')
    found = versions.default_backend('cuda')
    assert found.status == FAILED and found.note.startswith('no fast selective scan for cuda tensors (not there; ')
