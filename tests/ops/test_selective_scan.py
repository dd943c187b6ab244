"""Every backend against the specification, named tensor by named tensor; Triton where there is a GPU to run it."""

import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.ops.scan_orders import scan_order
from mmbackbones.ops.selective_scan import cpu, selective_scan, selective_scan_backend, use_scans
from mmbackbones.ops.selective_scan.dispatch import get_backend
from tests.conftest import golden
from tests.ops.scan_cases import INPUTS, assert_equal_scans, golden_cases, random_inputs, run, specification

FLOAT32 = 5e-6
ISAS = list(cpu.LIBRARIES)
BACKENDS = ['naive', 'chunk', *(f'cpu-{isa}' for isa in ISAS), 'triton']


@pytest.fixture(autouse=True)
def same_for_all(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv('MMBACKBONES_SCAN_BACKEND', raising=False)
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN: what is left unwritten shows
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """Name of a backend; the C++ one once for every instruction set that this CPU has."""
    name, _, isa = request.param.partition('-')
    if name == 'triton' and not torch.cuda.is_available():
        pytest.skip('no CUDA device: Triton on it (test_triton.py has the interpreter)')
    if isa:
        capability = torch.backends.cpu.get_cpu_capability()
        if ISAS.index(isa) < (ISAS.index(capability) if capability in ISAS else len(ISAS) - 1):
            pytest.skip(f'this CPU has no {isa}')
        if cpu.load(isa) is None:
            pytest.skip(f'cpu is not built for {isa}')
        monkeypatch.setattr(cpu, 'isa', lambda: isa)
    return name


@pytest.fixture(scope='module')
def cases():
    return golden_cases(golden('selective_scan_cases.safetensors'))


@pytest.mark.parametrize('backend', ['naive', 'chunk'], indirect=True)
def test_golden_float64(cases, backend):
    assert len(cases) == 31
    for inputs, expected, delta_softplus in cases.values():
        actual = run(inputs, expected['dout'], delta_softplus=delta_softplus, backend=backend)
        assert_equal_scans(actual, {name: x for name, x in expected.items() if name != 'dout'}, 1e-10)


def test_golden_float32(cases, backend):
    for inputs, expected, delta_softplus in cases.values():
        inputs = {name: x.float() for name, x in inputs.items()}
        actual = run(inputs, expected['dout'], delta_softplus=delta_softplus, backend=backend)
        assert_equal_scans(actual, {name: x for name, x in expected.items() if name != 'dout'}, FLOAT32)


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize(
    'batch, dim, length, state, groups',
    [(2, 6, 37, 3, 0), (1, 5, 1, 1, 1), (2, 34, 65, 8, 2), (3, 12, 130, 5, 4), (1, 17, 64, 16, 1), (2, 64, 129, 1, 4)],
)
def test_parity(backend, batch, dim, length, state, groups, reverse):
    inputs = random_inputs(batch, dim, length, state, groups, dtype=torch.float32)
    dout, dlast_state = torch.randn_like(inputs['u']), torch.randn(batch, dim, state)
    options = dict(delta_softplus=True, reverse=reverse)
    assert_equal_scans(
        run(inputs, dout, dlast_state, backend=backend, **options),
        specification(inputs, dout, dlast_state, **options),
        FLOAT32,
    )


@pytest.mark.parametrize('delta_softplus', [False, True], ids=['', 'softplus'])
@pytest.mark.parametrize('absent', [(), ('D',), ('z',), ('delta_bias',), ('D', 'z', 'delta_bias')], ids=str)
def test_options(backend, absent, delta_softplus):
    inputs = random_inputs(2, 20, 70, 4, 2, absent=absent, dtype=torch.float32)
    if not delta_softplus:
        inputs |= {name: inputs[name].abs() for name in ('delta', 'delta_bias') if name in inputs}
    dout = torch.randn_like(inputs['u'])
    assert_equal_scans(
        run(inputs, dout, delta_softplus=delta_softplus, backend=backend),
        specification(inputs, dout, delta_softplus=delta_softplus),
        FLOAT32,
    )


@pytest.mark.parametrize(
    'dtypes',
    [
        dict.fromkeys(INPUTS, torch.bfloat16),
        dict.fromkeys(INPUTS, torch.float16),
        dict(u=torch.bfloat16, delta=torch.float32, B=torch.bfloat16, C=torch.float16, z=torch.bfloat16),
    ],
    ids=['bfloat16', 'float16', 'mixed'],
)
def test_low_precision_rounds_only_what_it_returns(backend, dtypes):
    inputs = random_inputs(2, 20, 70, 4, 2)
    inputs = {name: x.to(dtypes.get(name, torch.float32)) for name, x in inputs.items()}
    dout = torch.randn(2, 20, 70, dtype=torch.float64).to(inputs['u'].dtype).double()
    actual = run(inputs, dout, delta_softplus=True, backend=backend)
    expected = specification(inputs, dout, delta_softplus=True)
    for name, x in inputs.items():
        assert actual[f'grad_{name}'].dtype == x.dtype, name
    assert actual['out'].dtype == inputs['u'].dtype
    assert actual['last_state'].dtype == torch.float32
    for name, x in actual.items():
        rounded = expected[name].to(x.dtype).double()
        tolerance = 2 * torch.finfo(x.dtype).eps * expected[name].abs() + FLOAT32 * expected[name].abs().max()
        assert ((x.double() - rounded).abs() <= tolerance).all(), name


def test_batch_of_none(backend):
    inputs = random_inputs(0, 6, 5, 4, dtype=torch.float32)
    actual = run(inputs, torch.zeros(0, 6, 5), torch.zeros(0, 6, 4), backend=backend)
    assert actual['out'].shape == (0, 6, 5) and actual['last_state'].shape == (0, 6, 4)
    assert not actual['grad_A'].any() and actual['grad_A'].shape == (6, 4)


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_strided_inputs_and_gradients(backend, reverse):
    inputs = random_inputs(2, 18, 70, 4, 2, dtype=torch.float32)
    dout = torch.randn(2, 70, 18).transpose(1, 2)
    expected = run(inputs, dout.contiguous(), delta_softplus=True, reverse=reverse, backend=backend)
    for name in ('u', 'delta', 'z', 'B', 'C', 'A'):
        inputs[name] = inputs[name].transpose(-1, -2).contiguous().transpose(-1, -2)
    actual = run(inputs, dout, delta_softplus=True, reverse=reverse, backend=backend)
    assert_equal_scans(actual, {name: x.double() for name, x in expected.items()}, 1e-6)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', ['u', 'delta', 'B', 'C', 'z'])
def test_nonfinite_values_propagate(backend, name, value):
    inputs = random_inputs(2, 20, 200, 4, 1, dtype=torch.float32)
    inputs[name][1, ..., 3, 70] = value
    if name == 'delta' and value < 0:
        pytest.skip('softplus(-inf) is 0, a finite step')
    actual, expected = (
        run(inputs, torch.zeros_like(inputs['u']), delta_softplus=True, backend=each)['out']
        for each in (backend, 'naive')
    )
    assert not expected.isfinite().all()
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert torch.equal(actual.isnan(), expected.isnan()) or name == 'delta'


def test_twice_the_same_bits(backend):
    inputs = random_inputs(3, 34, 150, 5, 2, dtype=torch.float32)
    dout = torch.randn(3, 34, 150)
    first, second = (run(inputs, dout, delta_softplus=True, backend=backend) for _ in range(2))
    for name, x in first.items():
        assert torch.equal(x, second[name]), name


@pytest.mark.parametrize('backend', ['naive', 'chunk'], indirect=True)
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_gradcheck(backend, reverse):
    inputs = random_inputs(2, 4, 6, 3, 2)
    tensors = [inputs[name].requires_grad_() for name in INPUTS]
    assert torch.autograd.gradcheck(
        lambda *x: selective_scan(*x, delta_softplus=True, reverse=reverse, return_last_state=True, backend=backend),
        tensors,
    )


def test_reverse_is_the_flipped_scan():
    inputs = random_inputs(2, 6, 37, 4, 2)
    flipped = {name: x.flip(-1) if name in ('u', 'delta', 'B', 'C', 'z') else x for name, x in inputs.items()}
    y, last = selective_scan(**inputs, reverse=True, return_last_state=True, backend='naive')
    expected, expected_last = selective_scan(**flipped, return_last_state=True, backend='naive')
    torch.testing.assert_close(y, expected.flip(-1), rtol=0, atol=0)
    torch.testing.assert_close(last, expected_last, rtol=0, atol=0)


ORDERS = [
    ('w7', 9, 13),
    ('w2v', 7, 5),
    ('s2', 5, 7),
    ('snake_h', 6, 4),
    ('snake_v_flip', 5, 11),
    ('v', 3, 25),
    ('h', 1, 1),
]


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('dim, state, groups', [(34, 16, 2), (5, 1, 0), (12, 3, 4)])
@pytest.mark.parametrize('name, height, width', ORDERS)
def test_order_scans_a_gathered_copy(backend, name, height, width, dim, state, groups, reverse):
    order = scan_order(name, height, width).order
    inputs = random_inputs(2, dim, height * width, state, groups, dtype=torch.float32)
    dout, dlast_state = torch.randn_like(inputs['u']), torch.randn(2, dim, state)
    options = dict(delta_softplus=True, reverse=reverse, order=order)
    assert_equal_scans(
        run(inputs, dout, dlast_state, backend=backend, **options),
        specification(inputs, dout, dlast_state, **options),
        FLOAT32,
    )


@pytest.mark.parametrize('delta_softplus', [False, True], ids=['', 'softplus'])
@pytest.mark.parametrize('absent', [(), ('D',), ('z',), ('delta_bias',), ('D', 'z', 'delta_bias')], ids=str)
def test_order_options(backend, absent, delta_softplus):
    order = scan_order('w7', 9, 10).order
    inputs = random_inputs(2, 20, 90, 4, 2, absent=absent, dtype=torch.float32)
    if not delta_softplus:
        inputs |= {name: inputs[name].abs() for name in ('delta', 'delta_bias') if name in inputs}
    dout = torch.randn_like(inputs['u'])
    options = dict(delta_softplus=delta_softplus, order=order)
    assert_equal_scans(run(inputs, dout, backend=backend, **options), specification(inputs, dout, **options), FLOAT32)


def test_order_takes_any_strides_and_returns_channels_last(backend):
    order = scan_order('w7', 9, 10).order
    inputs = random_inputs(2, 18, 90, 4, 2, dtype=torch.float32)
    dout = torch.randn(2, 18, 90)
    expected = run(inputs, dout, delta_softplus=True, order=order, backend=backend)
    for name in ('u', 'delta', 'z', 'B', 'C', 'A'):
        inputs[name] = inputs[name].transpose(-1, -2).contiguous().transpose(-1, -2)
    # Parts of wider rows, as projections leave them.
    inputs['C'] = torch.cat([inputs['B'], inputs['C']], dim=2)[:, :, 4:]
    order = torch.stack([order, order], dim=1)[:, 0]
    actual = run(inputs, dout.mT.contiguous().mT, delta_softplus=True, order=order, backend=backend)
    assert_equal_scans(actual, {name: x.double() for name, x in expected.items()}, 1e-6)
    for name in ('out', 'grad_u', 'grad_delta', 'grad_z'):
        assert expected[name].mT.is_contiguous() and actual[name].mT.is_contiguous(), name


def test_order_in_low_precision(backend):
    order = scan_order('w7', 9, 10).order
    inputs = random_inputs(2, 20, 90, 4, 2, dtype=torch.bfloat16)
    dout = torch.randn(2, 20, 90).bfloat16()
    expected = specification(inputs, dout, delta_softplus=True, order=order)
    for name, x in run(inputs, dout, delta_softplus=True, order=order, backend=backend).items():
        assert x.dtype == (torch.float32 if name == 'last_state' else torch.bfloat16), name
        tolerance = 2 * torch.finfo(x.dtype).eps * expected[name].abs() + FLOAT32 * expected[name].abs().max()
        assert ((x.double() - expected[name]).abs() <= tolerance).all(), name


def test_order_of_an_empty_batch(backend):
    inputs = random_inputs(0, 6, 6, 4, dtype=torch.float32)
    order = scan_order('w7', 2, 3).order
    actual = run(inputs, torch.zeros(0, 6, 6), torch.zeros(0, 6, 4), order=order, backend=backend)
    assert actual['out'].shape == (0, 6, 6) and not actual['grad_A'].any()


def test_order_twice_the_same_bits(backend):
    inputs = random_inputs(3, 34, 150, 5, 2, dtype=torch.float32)
    dout, order = torch.randn(3, 34, 150), scan_order('w7', 10, 15).order
    first, second = (run(inputs, dout, delta_softplus=True, order=order, backend=backend) for _ in range(2))
    for name, x in first.items():
        assert torch.equal(x, second[name]), name


@pytest.mark.parametrize('backend', ['naive', 'chunk'], indirect=True)
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_order_gradcheck(backend, reverse):
    inputs = random_inputs(2, 4, 6, 3, 2)
    tensors = [inputs[name].requires_grad_() for name in INPUTS]
    options = dict(delta_softplus=True, reverse=reverse, order=scan_order('w2', 2, 3).order, return_last_state=True)
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, backend=backend, **options), tensors)


@pytest.mark.parametrize('backend', BACKENDS[:-1], indirect=True)
@pytest.mark.parametrize(
    'order, message',
    [
        (list(range(7)), 'order is list, expected a tensor'),
        (torch.arange(7).int(), r'order \(7,\) is torch.int32, expected a dense torch.int64'),
        (torch.arange(7, device='meta'), r'order \(7,\) is on meta, expected cpu as u'),
        (torch.arange(7)[None], r'order has shape \(1, 7\), expected \(S,\) with S >= L = 7'),
        (torch.arange(6), r'order has shape \(6,\), expected \(S,\) with S >= L = 7'),
        (torch.arange(8), 'order of 8 slots does not have every position from 0 to 6 once and else -1'),
        (torch.arange(-2, 7), 'order of 9 slots does not have every position'),
        (torch.tensor([0, 1, 2, 3, 4, 5, 5]), 'order of 7 slots does not have every position'),
        (torch.tensor([0, 1, 2, 3, 4, 5, -1]), 'order of 7 slots does not have every position'),
        (torch.tensor([0, 1, 2, 3, 4, 5, 1 << 62]), 'order of 7 slots does not have every position'),
    ],
)
def test_bad_order_is_named(backend, order, message):
    with pytest.raises(InputError, match=message) as error:
        selective_scan(**inputs_with(), order=order, backend=backend)
    assert '\n' not in str(error.value)


STATES = ('C', 'D', 'z')  # what a scan that returns its states is without


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('delta_softplus', [False, True], ids=['', 'softplus'])
@pytest.mark.parametrize(
    'batch, dim, length, groups, absent',
    [(2, 6, 37, 0, STATES), (1, 5, 1, 1, STATES), (2, 34, 131, 2, (*STATES, 'delta_bias')), (3, 12, 65, 4, ('C',))],
)
def test_states(backend, batch, dim, length, groups, absent, delta_softplus, reverse):
    """Without C the output is the states themselves; every gradient too, and that of the last state."""
    inputs = random_inputs(batch, dim, length, 1, groups, absent=absent, dtype=torch.float32)
    if not delta_softplus:
        inputs |= {name: inputs[name].abs() for name in ('delta', 'delta_bias') if name in inputs}
    dout, dlast_state = torch.randn_like(inputs['u']), torch.randn(batch, dim, 1)
    options = dict(delta_softplus=delta_softplus, reverse=reverse)
    assert_equal_scans(
        run(inputs, dout, dlast_state, backend=backend, **options),
        specification(inputs, dout, dlast_state, **options),
        FLOAT32,
    )


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('name, height, width', [('w7', 9, 13), ('v', 5, 7), ('h', 1, 1)])
def test_states_by_an_order(backend, name, height, width, reverse):
    inputs = random_inputs(2, 18, height * width, 1, 2, absent=STATES, dtype=torch.float32)
    dout = torch.randn_like(inputs['u'])
    options = dict(delta_softplus=True, reverse=reverse, order=scan_order(name, height, width).order)
    assert_equal_scans(run(inputs, dout, backend=backend, **options), specification(inputs, dout, **options), FLOAT32)


@pytest.mark.parametrize('u_dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_states_in_low_precision(backend, u_dtype):
    """In the dtype of u: float32 beside half-precision projections, as in a mixer under autocast."""
    inputs = random_inputs(2, 20, 70, 1, 2, absent=STATES, dtype=torch.float32)
    inputs |= {name: inputs[name].to(torch.bfloat16) for name in ('delta', 'B')} | {'u': inputs['u'].to(u_dtype)}
    dout = torch.randn(2, 20, 70).to(u_dtype)
    expected = specification(inputs, dout, delta_softplus=True)
    for name, x in run(inputs, dout, delta_softplus=True, backend=backend).items():
        wanted = inputs[name.removeprefix('grad_')].dtype if name.startswith('grad_') else u_dtype
        assert x.dtype == (torch.float32 if name == 'last_state' else wanted), name
        tolerance = 2 * torch.finfo(x.dtype).eps * expected[name].abs() + FLOAT32 * expected[name].abs().max()
        assert ((x.double() - expected[name]).abs() <= tolerance).all(), name


@pytest.mark.parametrize('backend', ['naive', 'chunk'], indirect=True)
@pytest.mark.parametrize('order', [None, scan_order('w2', 3, 3).order], ids=['', 'order'])
def test_states_gradcheck(backend, order):
    inputs = random_inputs(2, 4, 9, 1, 2, absent=STATES)
    tensors = [x.requires_grad_() for x in inputs.values()]

    def scan(u, delta, A, B, delta_bias):
        options = dict(delta_bias=delta_bias, delta_softplus=True, reverse=True, order=order, return_last_state=True)
        return selective_scan(u, delta, A, B, None, backend=backend, **options)

    assert torch.autograd.gradcheck(scan, tensors)


def test_several_states_are_not_returned():
    with pytest.raises(InputError, match=r'C is None, so that the states are returned, .* A has shape \(6, 4\), exp'):
        selective_scan(**inputs_with() | dict(C=None))


def inputs_with(**changes):
    inputs = random_inputs(2, 6, 7, 4, 2, dtype=torch.float32)
    return {name: changes[name](x) if name in changes else x for name, x in inputs.items()}


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(u=lambda x: x[0]), r'u has shape \(6, 7\), expected \(B, D, L\)'),
        (dict(delta=lambda x: x[:, :, 1:]), r'delta has shape \(2, 6, 6\), expected \(2, 6, 7\)'),
        (dict(A=lambda x: x[1:]), r'A has shape \(5, 4\), expected \(D, N\) = \(6, N >= 1\)'),
        (dict(A=lambda x: x.to(torch.complex64)), r'A \(6, 4\) is complex, expected real'),
        (dict(B=lambda x: x[:, :, 1:]), r'B has shape \(2, 2, 3, 7\), expected \(B, N, L\) = \(2, 4, 7\)'),
        (dict(B=lambda x: x.repeat(1, 2, 1, 1)), r'B \(2, 4, 4, 7\) has 4 groups, expected a divisor of D = 6'),
        (dict(C=lambda x: x[:, :1]), r'C has shape \(2, 1, 4, 7\), expected \(2, 2, 4, 7\) as B'),
        (dict(D=lambda x: x[None]), r'D has shape \(1, 6\), expected \(6,\)'),
        (dict(z=lambda x: x[:1]), r'z has shape \(1, 6, 7\), expected \(2, 6, 7\)'),
        (dict(delta_bias=lambda x: x[1:]), r'delta_bias has shape \(5,\), expected \(6,\)'),
        (dict(u=lambda x: x.long()), r'u \(2, 6, 7\) is torch.int64, expected a float'),
        (dict(z=lambda x: x.to('meta')), r'z \(2, 6, 7\) is on meta, expected cpu as u'),
        (dict(u=lambda x: x.numpy()), 'u is ndarray, expected a tensor'),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(InputError, match=message) as error:
        selective_scan(**inputs_with(**changes))
    assert '\n' not in str(error.value)


def test_unknown_and_unusable_backends():
    with pytest.raises(InputError, match="backend is 'fast', expected 'auto' or one of naive, chunk, cpu, triton, m"):
        selective_scan(**inputs_with(), backend='fast')
    with pytest.raises(InputError, match="backend='mamba_ssm' cannot be used: mamba_ssm serves cuda tensors"):
        selective_scan(**inputs_with(), backend='mamba_ssm')
    with pytest.raises(InputError, match='cpu has no float64'):
        selective_scan_backend(torch.zeros(1, dtype=torch.float64), 'cpu')


def test_choice_by_device_and_environment(monkeypatch):
    assert selective_scan_backend('meta').name == 'naive'
    assert selective_scan_backend(torch.zeros(1, dtype=torch.float64)).name == 'chunk'
    monkeypatch.setattr(get_backend('cpu'), 'available', lambda: 'not built')
    assert selective_scan_backend('cpu') == ('chunk', 'cpu cannot be used: not built')
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', 'naive')
    assert selective_scan_backend('cpu') == ('naive', 'asked for by MMBACKBONES_SCAN_BACKEND')
    assert selective_scan_backend('cpu', 'chunk').name == 'chunk'
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', 'triton3')
    with pytest.raises(InputError, match="MMBACKBONES_SCAN_BACKEND is 'triton3'"):
        selective_scan(**inputs_with())


@pytest.mark.parametrize('old, name', [('reference', 'naive'), ('chunked', 'chunk'), ('native', 'cpu')])
def test_earlier_names_are_understood(old, name, monkeypatch):
    assert selective_scan_backend('cpu', old).name == name
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', old)
    assert selective_scan_backend('cpu') == (name, 'asked for by MMBACKBONES_SCAN_BACKEND')
    inputs = inputs_with()
    assert torch.equal(selective_scan(**inputs, backend=old), selective_scan(**inputs, backend=name))


def test_the_earlier_name_of_mamba_ssm_is_understood():
    with pytest.raises(InputError, match="backend='mamba_ssm' cannot be used: mamba_ssm serves cuda tensors"):
        selective_scan(**inputs_with(), backend='official')


def test_use_scans_holds_within_its_block_alone(monkeypatch):
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', 'chunk')
    with use_scans(backend='naive'):
        assert selective_scan_backend('cpu').name == 'naive'
        with use_scans(directional='composed'):
            assert selective_scan_backend('cpu').name == 'naive'
        assert selective_scan_backend('cpu', 'chunk').name == 'chunk'
    assert selective_scan_backend('cpu').name == 'chunk'


def test_functions_are_at_the_door_of_the_package():
    """And the packages of the same names are still where their modules are imported from."""
    from mmbackbones.ops import directional_scan, selective_scan
    from mmbackbones.ops.directional_scan import directional_scan as direct
    from mmbackbones.ops.selective_scan.op import selective_scan as inner

    assert selective_scan is inner and directional_scan is direct
    import mmbackbones.ops.selective_scan.op
    from mmbackbones.ops import directional_scan as again

    assert again is directional_scan and mmbackbones.ops.selective_scan is inner


def test_cuda_without_a_fast_backend_is_an_error(monkeypatch):
    for name in ('triton', 'mamba_ssm'):
        monkeypatch.setattr(get_backend(name), 'available', lambda name=name: f'{name} is not there')
    with pytest.raises(InputError, match=r'triton is not there; mamba_ssm is not there.*chunk'):
        selective_scan_backend('cuda')
    assert selective_scan_backend('cuda', 'chunk').name == 'chunk'


def test_mamba_ssm_is_not_imported_where_triton_runs(monkeypatch):
    monkeypatch.setattr(get_backend('triton'), 'available', lambda: None)
    monkeypatch.setattr(get_backend('mamba_ssm'), 'available', lambda: pytest.fail('imported'))
    assert selective_scan_backend('cuda').name == 'triton'
