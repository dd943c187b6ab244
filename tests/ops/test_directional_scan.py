"""Directional scans against a reference that goes step by step; the fused kernels in the interpreter and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmbackbones.errors import InputError
from mmbackbones.ops.directional_scan import directional_scan, project_tokens
from mmbackbones.ops.scan_orders import ScanOrder, scan_order
from mmbackbones.ops.selective_scan import use_scans
from tests.ops.directional_cases import assert_close, random_inputs, run, specification

VIM = dict(batch=2, size=(3, 5), dim=5, state=4, rank=3, taps=4)
VMAMBA = dict(size=(3, 5), dim=5, state=1, orders=(None, 'v', None, 'v'), absent=('z',))
BOTH_WAYS, FOUR_WAYS = [False, True], [False, False, True, True]


@pytest.mark.parametrize('backend', ['naive', 'chunk', 'cpu'])
@pytest.mark.parametrize(
    'case, reverse',
    [
        (VIM, BOTH_WAYS),
        (VMAMBA, FOUR_WAYS),
        (dict(VIM, orders=('w2', 'w2v', 'w2'), state=1), [False, True, True]),
        (dict(size=(3, 3), orders=('s2',), state=16, taps=1, absent=('D', 'z', 'conv_bias')), [True]),
    ],
    ids=['vim', 'vmamba', 'windows', 'bare'],
)
def test_composed(case, reverse, backend):
    dtype = torch.float32 if backend == 'cpu' else torch.float64
    inputs, orders = random_inputs(**case, dtype=dtype)
    actual = run(inputs, orders=orders, reverse=reverse, backend=backend)
    assert_close(actual, specification(inputs, orders, reverse), 5e-6 if dtype == torch.float32 else 1e-12)


def test_output_may_be_wider_than_the_tokens():
    inputs, orders = random_inputs(**VMAMBA)
    inputs['x'] = inputs['x'].bfloat16()
    narrow, wide = (
        directional_scan(**inputs, orders=orders, reverse=FOUR_WAYS, out_dtype=dtype) for dtype in (None, torch.float32)
    )
    assert narrow.dtype == torch.bfloat16 and wide.dtype == torch.float32
    assert 0 < (narrow - wide).abs().max() < 0.05 * wide.abs().max()


def test_composition_compiles_whole_and_can_be_checkpointed():
    inputs, orders = random_inputs(**VIM)
    options = dict(orders=orders, reverse=BOTH_WAYS)
    expected = run(inputs, **options)
    torch._dynamo.reset()
    compiled = torch.compile(directional_scan, fullgraph=True, backend='aot_eager')
    assert_close(run(inputs, compiled, **options), expected, 1e-6)
    names = list(inputs)

    def again(*, orders, reverse, **tensors):
        def function(*values):
            return directional_scan(**dict(zip(names, values)), orders=orders, reverse=reverse)

        return checkpoint(function, *tensors.values(), use_reentrant=False)

    assert_close(run(inputs, again, **options), expected, 0)


def test_autocast():
    inputs, orders = random_inputs(**VIM)
    expected = directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS)
    inputs |= {name: inputs[name].bfloat16() for name in ('x', 'z')}
    with torch.autocast('cpu', torch.bfloat16):
        y = directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS)
    assert y.dtype == torch.bfloat16
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


def test_empty_batch():
    inputs, orders = random_inputs(**VIM)
    inputs |= {name: inputs[name][:0] for name in ('x', 'z')}
    assert directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS).shape == (0, 15, 5)


def test_implementation_that_cannot_run_is_named(monkeypatch):
    inputs, orders = random_inputs(**VIM)
    monkeypatch.setenv('MMBACKBONES_DIRECTIONAL_SCAN', 'triton')
    with pytest.raises(InputError, match="DIRECTIONAL_SCAN='triton' cannot be used: the selective scan runs on cpu"):
        directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS)
    monkeypatch.setenv('MMBACKBONES_DIRECTIONAL_SCAN', 'fast')
    with pytest.raises(InputError, match="MMBACKBONES_DIRECTIONAL_SCAN is 'fast', expected 'auto' or one of composed"):
        directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS)
    with use_scans(directional='composed'):
        directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS)


@pytest.mark.parametrize('bias', [None, torch.randn(6)], ids=['', 'bias'])
def test_projected_tokens_lie_next_to_each_other(bias):
    x, weight = torch.randn(2, 5, 4), torch.randn(6, 4)
    parts = project_tokens(x, weight, bias, parts=2)
    torch.testing.assert_close(torch.cat(parts, dim=2), F.linear(x, weight, bias))
    assert [part.stride(1) for part in parts] == [1, 1]


def test_weights_may_be_lists():
    inputs, orders = random_inputs(**VIM)
    lists = {name: x if name in ('x', 'z') else list(x) for name, x in inputs.items()}
    y = directional_scan(**lists, orders=orders, reverse=BOTH_WAYS)
    assert torch.equal(y, directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS))
    lists['D'] = [lists['D'][0], lists['D'][1][1:]]
    with pytest.raises(InputError, match=r'D has shapes \[\(5,\), \(4,\)\], expected 2 times \(5,\)'):
        directional_scan(**lists, orders=orders, reverse=BOTH_WAYS)


def test_shared_weights_are_projected_once():
    inputs, _ = random_inputs(**dict(VIM, taps=0))
    inputs |= {name: 2 * [inputs[name][0]] for name in ('proj_weight', 'dt_weight')}
    options = dict(orders=[None, None], reverse=BOTH_WAYS)
    with FlopCounterMode(display=False) as counter:
        y = directional_scan(**inputs, **options)
    shared = counter.get_total_flops()
    inputs |= {name: torch.stack(inputs[name]) for name in ('proj_weight', 'dt_weight')}
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(directional_scan(**inputs, **options), y, rtol=0, atol=0)
    assert shared < counter.get_total_flops()


def without(name):
    return lambda inputs: inputs | {name: None}


def resized(name, *shape):
    return lambda inputs: inputs | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    'change, message',
    [
        (without('dt_bias'), 'dt_bias is NoneType, expected a tensor'),
        (
            lambda inputs: inputs | {'A': inputs['A'].int()},
            r'A \(2, 5, 4\) is torch.int32 and torch.strided, expected a d',
        ),
        (lambda inputs: inputs | {'D': inputs['D'].to('meta')}, r'D \(2, 5\) is on meta, expected cpu as x'),
        (resized('x', 15, 5), r'x has shape \(15, 5\), expected \(B, L, D\)'),
        (resized('A', 2, 4, 5), r'A has shape \(2, 4, 5\), expected \(K >= 1, D, N >= 1\) with D = 5'),
        (
            resized('dt_weight', 2, 3, 5),
            r'dt_weight has shape \(2, 3, 5\), expected \(K, D, R >= 1\) with .* = \(2, 5\)',
        ),
        (resized('proj_weight', 2, 12, 5), r'proj_weight has shape \(2, 12, 5\), expected \(2, 11, 5\)'),
        (resized('z', 2, 5, 15), r'z has shape \(2, 5, 15\), expected \(2, 15, 5\)'),
        (resized('D', 10), r'D has shape \(10,\), expected \(2, 5\)'),
        (resized('conv_weight', 2, 5), r'conv_weight has shape \(2, 5\), expected \(K, D, W >= 1\)'),
        (resized('conv_weight', 2, 4, 5), r'conv_weight has shape \(2, 4, 5\), expected \(2, 5, 5\)'),
        (without('conv_weight'), 'conv_bias is given without conv_weight'),
    ],
)
def test_bad_tensors(change, message):
    inputs, orders = random_inputs(**VIM)
    with pytest.raises(InputError, match=f'directional_scan: {message}') as error:
        directional_scan(**change(inputs), orders=orders, reverse=BOTH_WAYS)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(orders=[None]), 'orders has 1 entries, expected 2 as A'),
        (dict(reverse=[True] * 3), 'reverse has 3 entries, expected 2 as A'),
        (dict(orders=[None, scan_order('v', 2, 5)]), r'\(10,\) slots for \(10,\) tokens, expected 15 tokens as x has'),
        (dict(orders=[None, scan_order('v', 3, 5, 'meta')]), 'an order is torch.int64 on meta, expected .* on cpu'),
        (dict(out_dtype=torch.bfloat16), 'out_dtype is torch.bfloat16, expected one as wide as x, torch.float32'),
        (dict(backend='fast'), "backend is 'fast'"),
    ],
)
def test_bad_options(options, message):
    inputs, orders = random_inputs(**VIM)
    with pytest.raises(InputError, match=message):
        directional_scan(**inputs, **dict(orders=orders, reverse=BOTH_WAYS) | options)


@pytest.mark.parametrize('markers', ['not full', pytest.param('full', marks=pytest.mark.full)])
def test_fused_in_the_interpreter(markers):
    pytest.importorskip('triton', reason='triton is not installed; pip install triton')
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        '-m',
        markers,
        str(Path(__file__).with_name('directional_interpreted.py')),
    ]
    environment = dict(os.environ, TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert ' passed' in result.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device, and PyTorch sees none')
@pytest.mark.parametrize(
    'dtype, tolerance',
    [(torch.float32, 1e-4), (torch.bfloat16, 4e-2), (torch.float16, 1e-2)],
    ids=['fp32', 'bf16', 'fp16'],
)
@pytest.mark.parametrize(
    'case, reverse',
    [
        (dict(batch=2, size=(23, 29), dim=100, state=16, rank=12, taps=4), BOTH_WAYS),
        (
            dict(batch=1, size=(50, 41), dim=40, state=1, rank=6, orders=(None, 'v', None, 'v'), absent=('z',)),
            FOUR_WAYS,
        ),
        (dict(batch=1, size=(23, 29), dim=70, state=16, rank=48, taps=4, orders=('w2', 'w7v')), BOTH_WAYS),
    ],
    ids=['vim', 'vmamba', 'windows'],
)
def test_fused_on_a_gpu(case, reverse, dtype, tolerance):
    inputs, orders = random_inputs(**case)
    inputs |= {name: inputs[name].to(dtype) for name in ('x', 'z') if name in inputs}
    expected = run({name: x.double() for name, x in inputs.items()}, orders=orders, reverse=reverse, backend='chunk')
    orders = [None if order is None else ScanOrder(order.order.cuda(), order.inverse.cuda()) for order in orders]
    inputs = {name: x.cuda() for name, x in inputs.items()}
    runs = [run(inputs, orders=orders, reverse=reverse, backend='triton') for _ in range(2)]
    assert_close({name: x.cpu() for name, x in runs[0].items()}, expected, tolerance)
    for name, x in runs[0].items():
        assert torch.equal(x, runs[1][name]), name


def test_gate_of_zeros_closes():
    inputs, orders = random_inputs(**VIM)
    inputs['z'].zero_()
    y = directional_scan(**inputs, orders=orders, reverse=BOTH_WAYS)
    assert torch.equal(y, F.silu(inputs['z']))
