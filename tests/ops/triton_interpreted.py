"""The Triton kernels against the specification, under Triton's interpreter.

Run by test_triton.py in a process of its own, since Triton decides at its import whether to interpret. Uninitialised
memory is filled with NaN, so that whatever a kernel forgets to write fails the comparison.
"""

import pytest
import torch

from mmbackbones.ops.scan_orders import scan_order
from mmbackbones.ops.selective_scan import ScanArguments
from mmbackbones.ops.selective_scan import triton as backend
from mmbackbones.ops.selective_scan.triton import host
from tests.conftest import golden
from tests.ops.scan_cases import INPUTS, assert_equal_scans, golden_cases, random_inputs, run, specification

FLOAT32 = 5e-6


@pytest.fixture(autouse=True, scope='module')
def poisoned_memory():
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def cases():
    return golden_cases(golden('selective_scan_cases.safetensors'))


@pytest.fixture
def cut(monkeypatch):
    """Cuts every sequence into so many segments, as on a device that batch and channels leave idle.

    With ``chunk``, states are saved every so many steps: the same code over fewer tokens, which the interpreter takes
    one by one.
    """
    sizes = host.sizes

    def cut(segments, chunk=None):
        monkeypatch.setattr(host, 'wanted_segments', lambda programs, chunks, *_: min(chunks, segments))
        if chunk:
            monkeypatch.setattr(host, 'sizes', lambda state: dict(sizes(state), CHUNK=chunk))

    return cut


def check(inputs, dout, dlast_state=None, tolerance=FLOAT32, **options):
    assert_equal_scans(
        run(inputs, dout, dlast_state, backend='triton', **options),
        specification(inputs, dout, dlast_state, **options),
        tolerance,
    )


def check_golden(cases, names):
    for name in names:
        inputs, expected, delta_softplus = cases[name]
        inputs = {name: x.float() for name, x in inputs.items()}
        dout = expected.pop('dout')
        assert_equal_scans(run(inputs, dout, delta_softplus=delta_softplus, backend='triton'), expected, FLOAT32)


def test_golden(cases):
    check_golden(cases, [f'case{i:02}' for i in range(13, 22)])


@pytest.mark.full
def test_golden_rest(cases):
    check_golden(cases, [f'case{i:02}' for i in (*range(13), *range(22, 31))])


# N exact and padded to a power of two; lengths around the counts of chunks (16, 32, or a smaller one) and steps;
# channels around a block; segments of one chunk and of two.
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize(
    'batch, dim, length, state, groups, segments, chunk',
    [
        (1, 5, 1, 1, 1, 1, None),
        (1, 33, 18, 1, 0, 1, None),
        (1, 4, 10, 1, 4, 3, 4),
        (2, 4, 9, 3, 2, 1, 8),
        (1, 3, 34, 5, 0, 3, None),
        (1, 2, 19, 8, 1, 1, None),
        (1, 3, 35, 16, 0, 1, None),
        (1, 2, 19, 16, 2, 2, 8),
        (1, 2, 5, 17, 0, 1, None),
        (2, 1, 3, 2, 1, 1, None),
    ],
)
def test_parity(cut, batch, dim, length, state, groups, segments, chunk, reverse):
    cut(segments, chunk)
    inputs = random_inputs(batch, dim, length, state, groups, dtype=torch.float32)
    dlast_state = torch.randn(batch, dim, state)
    check(inputs, torch.randn(batch, dim, length), dlast_state, delta_softplus=True, reverse=reverse)


@pytest.mark.parametrize(
    'name, height, width, state, groups, segments, chunk, reverse',
    [
        ('w2', 3, 3, 3, 1, 1, None, True),
        ('v', 2, 4, 1, 2, 1, None, False),
        ('s2', 3, 5, 1, 0, 3, 4, True),
        ('w2v', 1, 3, 16, 0, 1, None, False),
    ],
)
def test_order(cut, name, height, width, state, groups, segments, chunk, reverse):
    cut(segments, chunk)
    inputs = random_inputs(1, 4, height * width, state, groups, dtype=torch.float32)
    dlast_state = torch.randn(1, 4, state)
    order = scan_order(name, height, width).order
    dout = torch.randn(1, 4, height * width)
    check(inputs, dout, dlast_state, delta_softplus=True, reverse=reverse, order=order)
    out = run(inputs, dout, delta_softplus=True, order=order, backend='triton')
    assert all(out[key].mT.is_contiguous() for key in ('out', 'grad_u', 'grad_delta', 'grad_z'))


@pytest.mark.parametrize('delta_softplus', [False, True], ids=['', 'softplus'])
@pytest.mark.parametrize('absent', [(), ('D',), ('z',), ('delta_bias',), ('D', 'z', 'delta_bias')], ids=str)
def test_options(absent, delta_softplus):
    inputs = random_inputs(1, 2, 9, 4, 2, absent=absent, dtype=torch.float32)
    if not delta_softplus:
        inputs |= {name: inputs[name].abs() for name in ('delta', 'delta_bias') if name in inputs}
    check(inputs, torch.randn(1, 2, 9), delta_softplus=delta_softplus)


def test_segments_without_options(cut):
    cut(2, chunk=8)
    inputs = random_inputs(1, 3, 13, 2, absent=('D', 'z', 'delta_bias'), dtype=torch.float32)
    inputs['delta'] = inputs['delta'].abs()
    check(inputs, torch.randn(1, 3, 13))


@pytest.mark.parametrize('length, segments, chunk, reverse', [(18, 1, None, True), (10, 3, 4, False)])
def test_states(cut, length, segments, chunk, reverse):
    """Without C the output is the states."""
    cut(segments, chunk)
    inputs = random_inputs(1, 5, length, 1, absent=('C', 'D', 'z'), dtype=torch.float32)
    check(inputs, torch.randn(1, 5, length), torch.randn(1, 5, 1), delta_softplus=True, reverse=reverse)


def test_a_device_that_is_full_is_not_given_segments():
    cpu = torch.device('cpu')
    assert host.wanted_segments(3, 100, 16, cpu) == 1
    assert host.wanted_segments(2, 100, 16, cpu) == 4
    assert host.wanted_segments(5, 100, 1, cpu) == 6
    assert host.wanted_segments(1, 2, 16, cpu) == 2


def test_more_segments_than_the_carry_reads_ahead(cut):
    cut(100, chunk=4)
    inputs = random_inputs(1, 2, 35, 1, dtype=torch.float32)
    check(inputs, torch.randn(1, 2, 35), torch.randn(1, 2, 1), delta_softplus=True)


@pytest.mark.parametrize(
    'dtypes',
    [
        dict.fromkeys(INPUTS, torch.bfloat16),
        dict.fromkeys(INPUTS, torch.float16),
        dict(u=torch.bfloat16, delta=torch.float32, B=torch.bfloat16, C=torch.float16, z=torch.bfloat16),
    ],
    ids=['bfloat16', 'float16', 'mixed'],
)
def test_low_precision_rounds_only_what_it_returns(dtypes):
    inputs = random_inputs(1, 2, 9, 4, 2)
    inputs = {name: x.to(dtypes.get(name, torch.float32)) for name, x in inputs.items()}
    dout = torch.randn(1, 2, 9).to(inputs['u'].dtype).double()
    actual = run(inputs, dout, delta_softplus=True, backend='triton')
    expected = specification(inputs, dout, delta_softplus=True)
    assert actual['out'].dtype == inputs['u'].dtype and actual['last_state'].dtype == torch.float32
    for name, x in actual.items():
        if name.startswith('grad_'):
            assert x.dtype == inputs[name.removeprefix('grad_')].dtype, name
        tolerance = 2 * torch.finfo(x.dtype).eps * expected[name].abs() + FLOAT32 * expected[name].abs().max()
        assert ((x.double() - expected[name]).abs() <= tolerance).all(), name


def test_views_of_wider_memory_are_read_in_place():
    inputs = random_inputs(2, 4, 7, 2, dtype=torch.float32)
    wide = torch.randn(2, 7, 12)
    # [B, L, 3 D] -> three [B, D, L]
    u, inputs['delta'], inputs['z'] = wide.transpose(1, 2).chunk(3, dim=1)
    assert host.channels_last(u).data_ptr() == wide.data_ptr()
    check(inputs | dict(u=u), torch.randn(2, 7, 4).transpose(1, 2), delta_softplus=True)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')], ids=str)
@pytest.mark.parametrize('name', ['u', 'delta', 'z', 'B', 'C'])
def test_non_finite_input_stays_where_the_specification_has_it(name, value):
    inputs = random_inputs(1, 3, 9, 3, dtype=torch.float32)
    inputs[name][0, 1, 5] = value
    dout = torch.randn(1, 3, 9)
    actual = run(inputs, dout, delta_softplus=True, backend='triton')
    expected = specification(inputs, dout, delta_softplus=True)
    assert torch.equal(actual['out'].isfinite(), expected['out'].isfinite())
    assert torch.equal(actual['last_state'].isfinite(), expected['last_state'].isfinite())


def test_equal_bits_twice(cut):
    cut(2, chunk=4)
    inputs = random_inputs(1, 34, 7, 2, dtype=torch.float32)
    dout = torch.randn(1, 34, 7)
    first, second = (run(inputs, dout, delta_softplus=True, backend='triton') for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_small_steps_keep_their_relative_precision():
    inputs = random_inputs(1, 2, 9, 2, absent=('D', 'z', 'delta_bias'), dtype=torch.float32)
    inputs['delta'] -= 12
    actual = run(inputs, torch.ones(1, 2, 9), delta_softplus=True, backend='triton')
    expected = specification(inputs, torch.ones(1, 2, 9), delta_softplus=True)
    assert_equal_scans(actual, expected, 1e-6)


def test_addresses_beyond_two_to_the_31(tmp_path):
    """Inputs spread over a sparse file of 2^31 elements and more, by batch and by time."""
    file = torch.from_file(str(tmp_path / 'sparse'), shared=True, size=2**31 + 2**20, dtype=torch.float16)
    for batch, length, strides in ((3, 2, (2**30, 1, 1000)), (1, 9, (0, 1, 2**28))):
        dense = random_inputs(batch, 4, length, 2, dtype=torch.float16)
        spread = dict(dense)
        for offset, name in enumerate(('u', 'delta', 'z')):
            spread[name] = file.as_strided((batch, 4, length), strides, 16 * offset).copy_(dense[name])
        assert host.channels_last(spread['u']).data_ptr() == file.data_ptr()
        tensors = [spread[name] for name in INPUTS]
        tensors[3:5] = [x.unsqueeze(1) for x in tensors[3:5]]
        scan = ScanArguments(*tensors, True, False, None)
        out, _, saved = backend.forward(scan, save=True)
        dout = file.as_strided((batch, 4, length), strides, 64).copy_(torch.randn(batch, 4, length))
        gradients = backend.backward(scan, dout, None, saved)
        expected = specification(dense, dout.double(), delta_softplus=True)
        for name, x in zip(('out', 'grad_u', 'grad_delta'), (out, *gradients)):
            torch.testing.assert_close(x.double(), expected[name], atol=4e-3, rtol=2e-3)
