"""The wrapper of mamba_ssm's kernel, with a stand-in for the kernel that runs anywhere and has its limits."""

import sys
from types import ModuleType

import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import ScanArguments, frame, mamba_ssm, naive, selective_scan
from mmbackbones.ops.selective_scan.dispatch import _chosen as chosen
from tests.ops.scan_cases import INPUTS, assert_equal_scans, random_inputs, specification


class KernelStandIn:
    """The interface of mamba_ssm's autograd function, with the checks of its CUDA code."""

    lengths = []

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
        KernelStandIn.lengths.append(u.shape[-1])
        assert len({x.dtype for x in (u, delta, B, C, z) if x is not None}) == 1
        assert all(x.is_contiguous() for x in (u, delta, B, C))
        assert all(x is None or x.dtype == torch.float32 for x in (A, D, delta_bias))
        ctx.scan = ScanArguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus, False, None)
        out = frame.frame_forward(naive.recurrence, ctx.scan)
        return out if return_last_state else out[0]

    @staticmethod
    def backward(ctx, dout, *args):
        return *frame.frame_backward(naive.recurrence_backward, ctx.scan, dout, None), None, None, None


@pytest.fixture
def kernel(monkeypatch):
    module = ModuleType('mamba_ssm.ops.selective_scan_interface')
    module.SelectiveScanFn = KernelStandIn
    for name in ('mamba_ssm', 'mamba_ssm.ops'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', ModuleType('selective_scan_cuda'))
    mamba_ssm.available.cache_clear()
    KernelStandIn.lengths.clear()
    yield KernelStandIn
    mamba_ssm.available.cache_clear()


def results(inputs, dout, delta_softplus, reverse):
    scan = ScanArguments(*(inputs.get(name) for name in INPUTS), delta_softplus, reverse, None)
    out, last_state, saved = mamba_ssm.forward(scan, save=True)
    gradients = mamba_ssm.backward(scan, dout, None, saved)
    gradients = {f'grad_{name}': g for name, g in zip(INPUTS, gradients) if name in inputs}
    return dict(out=out, last_state=last_state, **gradients)


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('length, padded', [(100, 100), (110, 128), (130, 130)])
@pytest.mark.parametrize('delta_softplus', [False, True], ids=['', 'softplus'])
@pytest.mark.parametrize('absent', [(), ('D', 'z', 'delta_bias')], ids=['all', 'least'])
def test_padding_and_reverse_are_exact(kernel, length, padded, delta_softplus, absent, reverse):
    assert mamba_ssm.available() is None
    inputs = random_inputs(2, 6, length, 3, 2, absent=absent, dtype=torch.float32)
    inputs |= {name: inputs[name].abs() for name in ('delta', 'delta_bias') if name in inputs}
    dout = torch.randn(2, 6, length)
    actual = results(inputs, dout, delta_softplus, reverse)
    exact = delta_softplus or 'delta_bias' in absent
    assert kernel.lengths == [padded if exact else length] * 2
    options = dict(delta_softplus=delta_softplus, reverse=reverse)
    assert_equal_scans(actual, specification(inputs, dout, **options), 5e-6)


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_states_are_an_output_of_the_kernel(kernel, reverse):
    """The kernel itself returns the last state only; with C of ones its output is every state."""
    inputs = random_inputs(2, 6, 110, 1, 2, absent=('C', 'D', 'z'), dtype=torch.float32)
    dout = torch.randn(2, 6, 110)
    expected = specification(inputs, dout, delta_softplus=True, reverse=reverse)
    actual = results(inputs | dict(C=torch.ones_like(inputs['B'])), dout, True, reverse)
    del actual['grad_C']
    assert_equal_scans(actual, expected, 5e-6)


def test_mixed_dtypes_are_cast_for_the_kernel(kernel):
    inputs = random_inputs(2, 6, 20, 3, 2, dtype=torch.float32)
    inputs |= {name: inputs[name].bfloat16() for name in ('u', 'z', 'B')}
    actual = results(inputs, torch.randn(2, 6, 20), True, False)
    assert {name: actual[f'grad_{name}'].dtype for name in inputs} == {name: x.dtype for name, x in inputs.items()}
    assert actual['out'].dtype == torch.bfloat16


def test_gradient_of_the_last_state_is_refused(kernel):
    scan = ScanArguments(*random_inputs(1, 2, 5, 3, 1, dtype=torch.float32).values(), True, False, None)
    with pytest.raises(InputError, match="'mamba_ssm' has no gradient of the last state"):
        mamba_ssm.backward(scan, scan.u, torch.zeros(1, 2, 3), torch.empty(0))


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mamba_ssm', None)
    mamba_ssm.available.cache_clear()
    assert 'pip install --no-build-isolation "mmbackbones[mamba]"' in mamba_ssm.available()
    mamba_ssm.available.cache_clear()


# What the interface of a package without its extension does when it is imported: today's releases and those after.
INTERFACES = {'imports': 'import selective_scan_cuda', 'tries': 'selective_scan_cuda = None'}


@pytest.fixture(params=INTERFACES)
def package(request, monkeypatch, tmp_path):
    """A folder on the path with an importable mamba_ssm, which lacks the extension."""
    interface = tmp_path / 'mamba_ssm' / 'ops' / 'selective_scan_interface.py'
    interface.parent.mkdir(parents=True)
    interface.write_text(INTERFACES[request.param])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mamba_ssm, 'DEVICES', ('cpu',))  # so that a scan here gets as far
    monkeypatch.delitem(sys.modules, 'selective_scan_cuda', raising=False)
    chosen.cache_clear()
    mamba_ssm.available.cache_clear()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition('.')[0] in ('mamba_ssm', 'selective_scan_cuda')]:
        del sys.modules[name]
    chosen.cache_clear()
    mamba_ssm.available.cache_clear()


def refusal() -> str:
    inputs = random_inputs(1, 2, 5, 3, 1, dtype=torch.float32)
    with pytest.raises(InputError, match=r"^backend='mamba_ssm' cannot be used: ") as error:
        selective_scan(**inputs, backend='mamba_ssm')
    assert '\n' not in str(error.value)
    return str(error.value)


def test_package_without_its_extension_is_named_with_the_command(package):
    message = refusal()
    assert 'mamba_ssm is installed without its CUDA extension selective_scan_cuda; with nvcc: ' in message
    assert 'MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install' in message


def test_extension_for_another_torch_is_told_apart_from_a_missing_one(package):
    (package / 'selective_scan_cuda.py').write_text(
        'raise ImportError("selective_scan_cuda.so: undefined symbol: _ZN3c10", name="selective_scan_cuda")'
    )
    message = refusal()
    assert f'does not fit this torch {torch.__version__}' in message and 'undefined symbol: _ZN3c10' in message


@pytest.mark.skipif(
    not torch.cuda.is_available() or mamba_ssm.available() is not None, reason='needs mamba_ssm and CUDA'
)
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_parity_on_cuda(reverse):
    inputs = random_inputs(2, 64, 1900, 16, 2, dtype=torch.float32)
    dout = torch.randn(2, 64, 1900)
    actual = results({name: x.cuda() for name, x in inputs.items()}, dout.cuda(), True, reverse)
    expected = specification(inputs, dout, delta_softplus=True, reverse=reverse)
    assert_equal_scans({name: x.cpu() for name, x in actual.items()}, expected, 1e-4)
