"""The fused directional scans and the layers that call them, under Triton's interpreter.

Run by test_directional_scan.py in a process of its own, since Triton decides at its import whether to interpret.
Uninitialised memory is filled with NaN, so that whatever a kernel forgets to write fails the comparison.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmbackbones.layers.mamba import MambaMixer
from mmbackbones.layers.ss2d import SS2D
from mmbackbones.layers.token_mixers import build_branch
from mmbackbones.ops.directional_scan import DirectionalArguments, directional_scan
from mmbackbones.ops.directional_scan.triton import host as fused
from mmbackbones.ops.scan_orders import scan_order
from mmbackbones.ops.selective_scan import use_scans
from mmbackbones.ops.selective_scan.triton import host as backend
from tests.ops.directional_cases import assert_close, random_inputs, run, specification

FLOAT32 = 5e-6
VIM = dict(size=(1, 6), dim=3, state=2, rank=3, taps=4)
BOTH_WAYS, FOUR_WAYS = [False, True], [False, False, True, True]


@pytest.fixture(autouse=True, scope='module')
def poisoned_memory():
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def cut(monkeypatch):
    """Saves states every 4 steps and cuts sequences into segments, as where batch and channels leave a device idle."""
    sizes = backend.sizes
    monkeypatch.setattr(backend, 'sizes', lambda state: dict(sizes(state), CHUNK=4))
    monkeypatch.setattr(backend, 'wanted_segments', lambda programs, chunks, *_: min(chunks, 3))


def check(case, reverse, tolerance=FLOAT32):
    inputs, orders = random_inputs(**case)
    actual = run(inputs, orders=orders, reverse=reverse, backend='triton')
    assert_close(actual, specification(inputs, orders, reverse), tolerance)


CASES = {
    'vim': (dict(VIM, batch=2), BOTH_WAYS),
    'vim-16-states': (dict(size=(1, 5), dim=33, state=16, rank=12, taps=4), [True, False]),
    'vim-causal': (dict(VIM, orders=(None,)), [False]),
    'vmamba': (dict(size=(2, 3), dim=5, state=1, orders=(None, 'v', None, 'v'), absent=('z',)), FOUR_WAYS),
    'vmamba-gated-without-D': (dict(size=(3, 2), state=1, orders=('v', 'v'), absent=('D',)), BOTH_WAYS),
    'windows': (dict(batch=2, size=(2, 3), dim=2, state=3, taps=3, orders=('w2', 'v')), [True, False]),
    'windows-16-states': (dict(size=(1, 3), state=16, orders=('w2v',), absent=('z',)), [True]),
    'high-rank': (dict(size=(1, 5), state=1, rank=17, taps=2, absent=('conv_bias',)), BOTH_WAYS),
    'one-tap': (dict(size=(1, 4), taps=1, orders=(None,), absent=('z', 'D')), [True]),
}


@pytest.mark.parametrize('case, reverse', CASES.values(), ids=CASES)
def test_parity(case, reverse):
    check(case, reverse)


@pytest.mark.parametrize('name', ['vim', 'windows'])
def test_parity_projected_in_tiles(name, monkeypatch):
    """As half precision is, here in float32, which shows every error."""
    monkeypatch.setattr(fused, 'PROJECTED_IN_TILES', (torch.float32,))
    monkeypatch.setattr(fused, 'PROJECT_BLOCK', 2)
    check(*CASES[name])


@pytest.mark.full
@pytest.mark.parametrize('state', [1, 16])
@pytest.mark.parametrize('taps', [0, 4])
@pytest.mark.parametrize('absent', [(), ('z',)], ids=['gated', 'bare'])
@pytest.mark.parametrize(
    'orders, reverse',
    [((None,), [False]), (('v',), [True]), (('w2', 'h'), BOTH_WAYS), ((None, 'v', 'w2', 'w2v'), FOUR_WAYS)],
    ids=['one', 'one-reversed', 'two', 'four'],
)
def test_parity_in_full(state, taps, absent, orders, reverse):
    check(dict(size=(3, 5), dim=34, state=state, rank=5, taps=taps, orders=orders, absent=absent), reverse)


@pytest.mark.parametrize(
    'case, reverse',
    [
        (dict(size=(2, 7), dim=2, state=2, taps=4), BOTH_WAYS),
        (dict(size=(2, 5), dim=2, state=1, rank=1, taps=3, orders=('w2', 'v')), [True, False]),
    ],
    ids=['vim', 'windows'],
)
def test_segments(cut, case, reverse):
    check(case, reverse)


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 4e-2), (torch.float16, 5e-3)], ids=str)
def test_low_precision(dtype, tolerance):
    """Tokens and gate in half precision, weights in float32, as under autocast."""
    inputs, orders = random_inputs(**VIM)
    inputs |= {name: inputs[name].to(dtype) for name in ('x', 'z')}
    with torch.autocast('cpu', dtype):
        actual = run(inputs, orders=orders, reverse=BOTH_WAYS, backend='triton')
    assert_close(actual, specification(inputs, orders, BOTH_WAYS), tolerance)
    assert actual['y'].dtype == dtype
    for name, x in inputs.items():
        assert actual[f'grad_{name}'].dtype == x.dtype, name


def test_output_wider_than_the_tokens():
    inputs, orders = random_inputs(size=(2, 3), state=1, orders=(None, 'v'), absent=('z',))
    inputs['x'] = inputs['x'].bfloat16()
    options = dict(orders=orders, reverse=BOTH_WAYS, out_dtype=torch.float32)
    fused, plain = (run(inputs, **options, backend=name) for name in ('triton', 'cpu'))
    assert fused['y'].dtype == torch.float32 and fused['grad_x'].dtype == torch.bfloat16
    assert_close(fused, plain, 2e-2)


def test_views_of_wider_memory_are_read_in_place():
    inputs, orders = random_inputs(size=(1, 5), dim=4, taps=2)
    wide = torch.randn(1, 5, 12)
    views = inputs | dict(x=wide[..., :4], z=wide[..., 4:8])
    mixer = fused._Mixer(DirectionalArguments(*views.values(), [None] * 2, BOTH_WAYS))
    assert mixer.x.data_ptr() == wide.data_ptr() and mixer.z.data_ptr() == wide[..., 4:].data_ptr()
    y = directional_scan(**views, orders=orders, reverse=BOTH_WAYS, backend='triton')
    expected = directional_scan(**views, orders=orders, reverse=BOTH_WAYS, backend='cpu')
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_equal_bits_twice(cut):
    inputs, orders = random_inputs(size=(2, 3), dim=34, state=2, taps=2, orders=(None, 'v'))
    first, second = (run(inputs, orders=orders, reverse=BOTH_WAYS, backend='triton') for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_operator_is_registered_as_it_behaves():
    inputs = [x.requires_grad_() for x in random_inputs(size=(1, 2), dim=2, taps=2)[0].values()]
    arguments = (*inputs, [None, None], BOTH_WAYS, torch.float32, True)
    torch.library.opcheck(torch.ops.mmbackbones.directional_scan.default, arguments)
    order = scan_order('w2', 1, 2).order
    arguments = (*(x.detach() for x in inputs[:7]), None, None, [None, order], BOTH_WAYS, torch.float32, False)
    torch.library.opcheck(torch.ops.mmbackbones.directional_scan.default, arguments)


@pytest.mark.parametrize(
    'case',
    [dict(size=(1, 3), dim=2, taps=1), dict(size=(1, 3), dim=2, state=1, orders=(None, 'w2'), absent=('z',))],
    ids=['vim', 'windows'],
)
def test_flops_are_those_of_the_composition(case):
    """With more taps than one the composed convolution also computes, and counts, steps past the end."""
    inputs, orders = random_inputs(**case)
    counts = []
    for name in ('triton', 'cpu'):
        with FlopCounterMode(display=False) as counter:
            directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS, backend=name)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def layer_results(layer, x, name, monkeypatch):
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', name)
    layer.zero_grad()
    x = x.clone().requires_grad_()
    with Recorder() as recorder:
        y = checkpoint(layer, x, use_reentrant=False)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return dict(y=y.detach(), x=x.grad, **{key: p.grad.clone() for key, p in layer.named_parameters()}), recorder.names


@pytest.mark.parametrize(
    'layer, shape',
    [
        (lambda: MambaMixer(4, d_state=2, conv_bias=False), (1, 5, 4)),
        (lambda: MambaMixer(4, d_state=2, direction='backward', divide_out=True), (1, 5, 4)),
        (lambda: MambaMixer(4, d_state=2, direction='ssm'), (1, 5, 4)),
        (lambda: MambaMixer(4, d_state=2, direction='ssm_conv', divide_out=True), (2, 5, 4)),
        (lambda: SS2D(4, d_state=1, ssm_ratio=1.0), (1, 2, 3, 4)),
        (lambda: SS2D(4, d_state=2, gate=True), (1, 1, 3, 4)),
        (lambda: build_branch('ss2d', 3, d_state=2), (1, 2, 2, 3)),
    ],
    ids=['mamba-forward', 'mamba-backward', 'mamba-ssm', 'vim', 'vmamba', 'ss2d-gated', 'token-mixer'],
)
def test_layers_take_the_fused_path(layer, shape, monkeypatch):
    torch.manual_seed(0)
    layer, x = layer(), torch.randn(shape)
    expected, composed = layer_results(layer, x, 'cpu', monkeypatch)
    actual, names = layer_results(layer, x, 'triton', monkeypatch)
    assert_close(actual, expected, 1e-5)
    assert 'selective_scan' in composed and 'directional_scan' not in composed
    assert {'directional_scan', 'directional_scan_backward'} <= set(names)
    assert not {'flip', 'gather', 'selective_scan'} & set(names)


def test_composition_on_triton_when_asked_for(monkeypatch):
    torch.manual_seed(0)
    layer, x = SS2D(4, d_state=1, ssm_ratio=1.0), torch.randn(1, 2, 2, 4)
    expected, _ = layer_results(layer, x, 'cpu', monkeypatch)
    with use_scans(directional='composed'):
        actual, names = layer_results(layer, x, 'triton', monkeypatch)
    assert_close(actual, expected, 1e-5)
    assert 'selective_scan' in names and 'directional_scan' not in names


def test_layer_compiles_whole(monkeypatch):
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', 'triton')
    torch.manual_seed(0)
    layer, x = MambaMixer(4, d_state=2, direction='ssm_conv', divide_out=True), torch.randn(1, 3, 4)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x), layer(x))
    with torch.autocast('cpu', torch.bfloat16):
        y = compiled(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
