"""The selective scan inside PyTorch: operator contracts, compilation, meta tensors, FLOPs, autocast, checkpoints."""

import os

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmbackbones.ops.scan_orders import scan_order
from mmbackbones.ops.selective_scan import ScanArguments, cpu, selective_scan
from tests.ops.scan_cases import INPUTS, random_inputs, run

BACKENDS = ['naive', 'chunk']
BACKENDS += [pytest.param('cpu', marks=pytest.mark.skipif(cpu.available() is not None, reason=str(cpu.available())))]


@pytest.fixture(autouse=True)
def same_for_all(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv('MMBACKBONES_SCAN_BACKEND', raising=False)
    torch._dynamo.reset()


def leaves(absent=(), **options):
    inputs = random_inputs(2, 6, 70, 4, 2, absent=absent, dtype=torch.float32, **options)
    return [inputs[name].requires_grad_() if name in inputs else None for name in INPUTS]


@pytest.mark.parametrize('absent', [(), ('D', 'z', 'delta_bias')], ids=['all', 'least'])
@pytest.mark.parametrize('order', [None, scan_order('w7', 7, 10).order], ids=['', 'order'])
@pytest.mark.parametrize('backend', BACKENDS)
def test_opcheck(backend, order, absent):
    inputs = leaves(absent)
    arguments = (*inputs, True, True, order)
    torch.library.opcheck(torch.ops.mmbackbones.selective_scan.default, (*arguments, True, backend))
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    out, last_state, saved = torch.ops.mmbackbones.selective_scan(*arguments, True, backend)
    for dlast_state in (None, last_state):
        torch.library.opcheck(
            torch.ops.mmbackbones.selective_scan_backward.default,
            (*arguments, out, dlast_state, saved, backend),
        )


@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
def test_compiles_whole_and_equals_eager(dynamic):
    def scan(*inputs):
        out, last_state = selective_scan(*inputs, True, return_last_state=True)
        return out.sin().sum() + last_state.sum()

    compiled = torch.compile(scan, fullgraph=True, dynamic=dynamic, backend='aot_eager')
    for length in (70, 131):
        inputs = [x.detach().requires_grad_() for x in random_inputs(2, 6, length, 4, dtype=torch.float32).values()]
        value, expected = compiled(*inputs), scan(*inputs)
        torch.testing.assert_close(value, expected)
        for x, y in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs)):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize('backend', BACKENDS)
def test_states_compile_whole_and_count_as_a_scan(backend):
    def scan(u, delta, A, B):
        return selective_scan(u, delta, A, B, None, delta_softplus=True, backend=backend).sin().sum()

    inputs = [x.requires_grad_() for x in random_inputs(2, 6, 70, 1, dtype=torch.float32).values()][:4]
    with FlopCounterMode(display=False) as counter:
        expected = scan(*inputs)
    assert counter.get_total_flops() == 2 * 6 * 70 * (9 + 1)
    value = torch.compile(scan, fullgraph=True, backend='aot_eager')(*inputs)
    torch.testing.assert_close(value, expected)
    for x, y in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
def test_compiles_whole_with_an_order(dynamic, backend):
    def scan(order, *inputs):
        out, last_state = selective_scan(*inputs, True, order=order, return_last_state=True, backend=backend)
        return out.sin().sum() + last_state.sum()

    compiled = torch.compile(scan, fullgraph=True, dynamic=dynamic, backend='aot_eager')
    for height in (7, 13):
        order = scan_order('w7', height, 10).order
        inputs = [x.requires_grad_() for x in random_inputs(2, 6, height * 10, 4, dtype=torch.float32).values()]
        value, expected = compiled(order, *inputs), scan(order, *inputs)
        torch.testing.assert_close(value, expected)
        for x, y in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs)):
            torch.testing.assert_close(x, y)


@pytest.mark.slow
def test_compiles_with_inductor(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))  # no code compiled for another version of the operator
    inputs = leaves()
    for order in (None, scan_order('w7', 7, 10).order):

        def scan(*x, order=order):
            return selective_scan(*x, True, order=order).sin().sum()

        gradients = torch.autograd.grad(torch.compile(scan, fullgraph=True)(*inputs), inputs)
        expected = torch.autograd.grad(scan(*inputs), inputs)
        for x, y in zip(gradients, expected):
            torch.testing.assert_close(x, y)


def test_meta_tensors_and_flops():
    inputs = [x.detach().to('meta').requires_grad_() for x in leaves()]
    with FlopCounterMode(display=False) as counter:
        out, last_state = selective_scan(*inputs, return_last_state=True)
        out.sum().backward()
    assert out.shape == (2, 6, 70) and last_state.shape == (2, 6, 4)
    assert [x.grad.shape for x in inputs] == [x.shape for x in inputs]
    forward = 2 * 6 * 70 * (9 * 4 + 1)
    assert counter.get_total_flops() == forward + 2 * forward


def test_meta_tensors_and_flops_of_an_order():
    inputs, order = [x.detach().to('meta').requires_grad_() for x in leaves()], scan_order('w7', 7, 10, 'meta').order
    with FlopCounterMode(display=False) as counter:
        out = selective_scan(*inputs, order=order)
        out.sum().backward()
    assert out.mT.is_contiguous() and inputs[0].grad.shape == inputs[0].shape
    assert counter.get_total_flops() == 3 * 2 * 6 * 98 * (9 * 4 + 1)


@pytest.mark.parametrize('backend', BACKENDS)
def test_flops_do_not_depend_on_the_backend(backend):
    inputs = leaves()
    with FlopCounterMode(display=False) as counter:
        selective_scan(*inputs, backend=backend)
    assert counter.get_total_flops() == 2 * 6 * 70 * (9 * 4 + 1)


@pytest.mark.parametrize('backend', BACKENDS)
def test_autocast_leaves_the_state_in_float32(backend):
    inputs = random_inputs(2, 6, 70, 4, 2, dtype=torch.float32)
    inputs |= {name: inputs[name].bfloat16() for name in ('u', 'delta', 'z', 'B', 'C')}
    expected = run(inputs, torch.ones(2, 6, 70), delta_softplus=True, backend=backend)
    with torch.autocast('cpu', torch.bfloat16):
        actual = run(inputs, torch.ones(2, 6, 70), delta_softplus=True, backend=backend)
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype and torch.equal(actual[name], x), name


@pytest.mark.parametrize('reentrant', [False, True], ids=['new', 'reentrant'])
@pytest.mark.parametrize('backend', BACKENDS)
def test_gradient_checkpointing(backend, reentrant):
    inputs = leaves()
    out = checkpoint(lambda *x: selective_scan(*x, True, backend=backend), *inputs, use_reentrant=reentrant)
    out.sin().sum().backward()
    expected = torch.autograd.grad(selective_scan(*inputs, True, backend=backend).sin().sum(), inputs)
    for x, gradient in zip(inputs, expected):
        assert torch.equal(x.grad, gradient)


@pytest.mark.parametrize('backend', BACKENDS)
def test_no_states_are_kept_without_gradients(backend):
    inputs = [x.detach() for x in leaves()]
    *_, saved = torch.ops.mmbackbones.selective_scan(*inputs, True, False, None, False, backend)
    assert saved.numel() == 0


@pytest.mark.parametrize('backend', BACKENDS)
def test_gradient_of_the_last_state_alone(backend):
    inputs = leaves()
    _, last_state = selective_scan(*inputs, True, return_last_state=True, backend=backend)
    gradients = torch.autograd.grad(last_state.sum(), inputs)
    _, last_state = selective_scan(*inputs, True, return_last_state=True, backend='naive')
    for x, y in zip(gradients, torch.autograd.grad(last_state.sum(), inputs)):
        torch.testing.assert_close(x, y)


class Scan(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.A_log = torch.nn.Parameter(torch.zeros(6, 4))

    def forward(self, u, delta, B, C):
        return selective_scan(u, delta, -self.A_log.exp(), B, C, delta_softplus=True)


def test_ddp():
    os.environ.setdefault('MASTER_ADDR', 'localhost')
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        module = Scan()
        inputs = [x.detach() for x in (leaves()[i] for i in (0, 1, 3, 4))]
        DistributedDataParallel(module)(*inputs).sum().backward()
        (expected,) = torch.autograd.grad(module(*inputs).sum(), module.A_log)
        torch.testing.assert_close(module.A_log.grad, expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(cpu.available() is not None, reason=str(cpu.available()))
@pytest.mark.parametrize('order', [None, scan_order('w7', 10, 13).order], ids=['', 'order'])
@pytest.mark.parametrize('threads', [2, 3, 8])
def test_cpu_threads_share_the_channels(threads, order):
    inputs = random_inputs(1, 100, 130, 5, 2, dtype=torch.float32)
    dout = torch.randn(1, 100, 130)
    options = dict(delta_softplus=True, order=order, backend='cpu')
    expected = run(inputs, dout, **options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (run(inputs, dout, **options) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for name, x in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], x, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(cpu.available() is not None, reason=str(cpu.available()))
def test_cpu_addresses_beyond_31_bits(tmp_path):
    """Two batch items more than 2^32 elements apart, in a file of holes."""
    apart = (1 << 32) + 64
    file = torch.from_file(str(tmp_path / 'holes'), shared=True, size=apart + 8 * 70)
    inputs = random_inputs(2, 8, 70, 4, 2, dtype=torch.float32)
    far = torch.as_strided(file, (2, 8, 70), (apart, 70, 1))
    dout = torch.randn(2, 8, 70)
    expected = run(inputs, dout, delta_softplus=True, backend='cpu')
    full = [inputs[name] for name in INPUTS]
    for index in (0, 1, 6):
        spread = [*full]
        spread[index] = far.copy_(full[index])
        scan = ScanArguments(*spread, True, False, None)
        out, _, saved = cpu.forward(scan, save=True)
        gradients = cpu.backward(scan, dout, None, saved)
        assert torch.equal(out, expected['out'])
        for name, gradient in zip(INPUTS, gradients):
            assert torch.equal(gradient, expected[f'grad_{name}']), name


@pytest.mark.full
@pytest.mark.skipif(cpu.available() is not None, reason=str(cpu.available()))
def test_cpu_results_beyond_31_bits():
    """An output of more than 2^31 elements (8.6 GB) from inputs that repeat one channel."""
    dim, length = 33, 1 << 26
    u, delta = (torch.randn(1, 1, length).expand(1, dim, length) for _ in range(2))
    B, C = (torch.randn(1, 1, length) for _ in range(2))
    out = selective_scan(u, delta, torch.full((dim, 1), -1.0), B, C, delta_softplus=True, backend='cpu')
    assert out.numel() > 1 << 31
    assert torch.equal(out[0, 0, -1000:], out[0, -1, -1000:]) and out[0, -1, -1000:].any()
