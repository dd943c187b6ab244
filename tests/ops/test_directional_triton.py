"""The machine code of the fused directional scans, compiled ahead of time: no spills, and budgets of instructions."""

import pytest
import torch

from mmbackbones.ops.directional_scan import DirectionalArguments
from mmbackbones.ops.directional_scan.triton import host as fused
from mmbackbones.ops.selective_scan.triton import host as backend

pytest.importorskip('triton', reason='triton is not installed; pip install triton')

from mmbackbones.ops.directional_scan.triton import kernels as conv_kernels
from mmbackbones.ops.selective_scan.triton import kernels
from tests.ops.directional_cases import random_inputs
from tests.ops.test_triton import SEGMENT_UNROLL, assert_no_spill, compile_only, compiled, wide_leaves

CONV = dict(TAPS=4, HAS_CONV_BIAS=True)
# A direction in the middle of Vim-T's or Vim-S's mixer and its last one; VMamba's rows and its columns.
FORWARD = {
    'vim-first': (16, 12, dict(CONV, HAS_Z=False, REVERSE=False), 11),
    'vim-last': (16, 12, dict(CONV, ADD=True, KEEP=True), 12.5),
    'vim-small-last': (16, 24, dict(CONV, ADD=True, KEEP=True), 14),
    'vmamba-rows': (1, 6, dict(HAS_Z=False, REVERSE=False, ADD=True), 75),
    'vmamba-columns': (1, 6, dict(HAS_Z=False, ADD=True, HAS_ORDER=True), 88),
    'windows': (16, 24, dict(CONV, HAS_Z=False, ADD=True, HAS_ORDER=True, PADDED=True), 16),
}
BACKWARD = {
    'vim-first': (16, dict(DZ='kept', REVERSE=False), 34.5),
    'vim-second': (16, dict(DZ='none'), 34.5),
    'vmamba-rows': (1, dict(HAS_Z=False, DZ='none', REVERSE=False), 165),
    'vmamba-columns': (1, dict(HAS_Z=False, DZ='none', ADD=True, HAS_ORDER=True), 175),
    'windows': (16, dict(DZ='kept', ADD=True, HAS_ORDER=True, PADDED=True), 36),
}
CONVOLUTIONS = {
    'forward': (conv_kernels.conv_kernel, dict(ACTIVATE=True)),
    'transposed': (conv_kernels.conv_kernel, dict(ACTIVATE=False, HAS_BIAS=False, ADD=True)),
    'backward': (conv_kernels.conv_backward_kernel, {}),
}


def ranks(rank: int, state: int) -> dict[str, int]:
    padded = fused.rank_in_registers(rank, state)
    return dict(RANK=padded, TILE=min(padded, 16), MAP_ROW=rows(rank, state))


def rows(rank: int, state: int) -> int:
    """What stands between two tokens' B: two directions in Vim, four in VMamba."""
    return (2 if state > 1 else 4) * fused.columns(rank, state).width


def check_forward(name: str, capability: int, dtype: str = 'bf16') -> None:
    state, rank, flags, budget = FORWARD[name]
    flags = flags | ranks(rank, state)
    machine = compiled(kernels.forward_kernel, capability, state, dtype, **flags)
    assert_no_spill(machine)
    assert machine.hot['SHFL'] == 0 and machine.hot['BAR'] == 0
    assert machine.hot.total() / (backend.ahead(state, 'HAS_ORDER' in flags, flags['RANK']) * state) <= budget


def check_backward(name: str, capability: int, dtype: str = 'bf16') -> None:
    state, flags, budget = BACKWARD[name]
    machine = compiled(kernels.backward_for(state), capability, state, dtype, MAP_ROW=rows(6, state), **flags)
    assert_no_spill(machine)
    assert machine.hot.total() / (backend.sizes(state)['STEPS'] * state) <= budget


@pytest.mark.parametrize('name', ['vim-last', 'vmamba-columns'])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_forward_budget(capability, name):
    check_forward(name, capability)


@pytest.mark.parametrize('name', ['vim-first', 'vmamba-columns'])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_backward_budget(capability, name):
    check_backward(name, capability)


@pytest.mark.full
@pytest.mark.parametrize('dtype', ['bf16', 'fp32'])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_budgets_in_full(capability, dtype):
    for name in FORWARD:
        check_forward(name, capability, dtype)
    for name in BACKWARD:
        check_backward(name, capability, dtype)


@pytest.mark.full
@pytest.mark.parametrize('has_order', [False, True], ids=['', 'order'])
@pytest.mark.parametrize('state', [1, 2, 3, 4, 8, 16, 32, 64])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_nothing_spills(capability, state, has_order):
    """The forward pass with everything in it, at the highest rank that it multiplies out itself."""
    flags = dict(CONV, ADD=True, KEEP=True, HAS_ORDER=has_order, PADDED=has_order)
    rank = 32 if state > 4 else 16
    assert_no_spill(compiled(kernels.forward_kernel, capability, state, **ranks(rank, state), **flags))


@pytest.mark.parametrize('capability', [80, pytest.param(90, marks=pytest.mark.full), 100])
def test_segment_budget(capability):
    for state, rank, budget, flags in ((16, 12, 10.5, CONV), (1, 6, 70, dict(HAS_ORDER=True))):
        machine = compiled(
            kernels.segment_kernel, capability, state, BACKWARD=False, HAS_Z=False, **ranks(rank, state), **flags
        )
        assert_no_spill(machine)
        assert machine.hot['SHFL'] == 0
        assert machine.hot.total() / (SEGMENT_UNROLL * state) <= budget


@pytest.mark.parametrize('name', CONVOLUTIONS)
@pytest.mark.parametrize(
    'capability', [pytest.param(80, marks=pytest.mark.full), 90, pytest.param(100, marks=pytest.mark.full)]
)
def test_convolution_budget(capability, name):
    kernel, flags = CONVOLUTIONS[name]
    constants = dict(TIME=fused.CONV_TIME, BLOCK=fused.CONV_BLOCK, TAPS=4)
    machine = compiled(kernel, capability, 1, **constants | flags)
    assert_no_spill(machine)
    assert machine.registers <= 80 and machine.hot.total() <= 1200


@pytest.mark.parametrize('width', [64, pytest.param(128, marks=pytest.mark.full)])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_projection_budget(capability, width):
    constants = dict(TIME=fused.PROJECT_TIME, BLOCK=fused.PROJECT_BLOCK, WIDTH=width, TAPS=4, HAS_BIAS=True)
    machine = compiled(
        conv_kernels.project_kernel, capability, 1, options=fused.PROJECT_OPTIONS, INTERPRETED=False, **constants
    )
    assert_no_spill(machine)
    assert machine.hot['HMMA'] and machine.hot.total() <= 370  # on tensor cores


@pytest.mark.parametrize('state', [1, 16])
@pytest.mark.parametrize('rank', [1, 3, 6, 12, 16, 17, 24, 33, 48])
def test_rank_in_registers(rank, state):
    padded = fused.rank_in_registers(rank, state)
    most = 32 if state > 4 else 16
    assert padded == 0 if rank > most else rank <= padded <= most
    assert padded in (0, 1, 2, 4, 8) or padded % 16 == 0


def test_launches_bind_and_one_compilation_serves_every_length(monkeypatch):
    """The host's own launches, up to the machine code; Vim's directions, without segments and with."""
    launched = compile_only(monkeypatch)
    monkeypatch.setattr(backend, 'wanted_segments', lambda programs, chunks, *_: min(chunks, 3))
    launches = []
    for batch, length in ((1, 70), (2, 77)):
        inputs, orders = random_inputs(batch, (1, length), dim=32, state=8, rank=8, taps=4)
        inputs |= {name: inputs[name].bfloat16() for name in ('x', 'z')}
        scan = DirectionalArguments(*inputs.values(), orders, [False, True])
        out, *left = fused.forward(scan, torch.bfloat16, save=True)
        fused.backward(scan, torch.empty_like(out), *left)
        launches.append(tuple(launched))
        launched.clear()
    segmented = ['segment_kernel', 'carry_kernel']
    backward = ['conv_kernel', *segmented, '_backward', 'conv_backward_kernel', 'conv_kernel']
    assert [name for name, _ in launches[0]] == [
        'project_kernel',
        'project_kernel',
        *2 * [*segmented, 'forward_kernel'],
        *2 * backward,
    ]
    assert launches[0] == launches[1]


@pytest.mark.parametrize('name', ['conv_kernel', 'conv_backward_kernel', 'project_kernel', 'forward_kernel'])
def test_positions_are_64_bit(name):
    kernel = getattr(conv_kernels, name, None) or kernels.forward_kernel
    constants = dict(TIME=16, BLOCK=32, WIDTH=16, TAPS=4, INTERPRETED=False, ACTIVATE=True, HAS_BIAS=True)
    if name == 'forward_kernel':
        constants = dict(CONV, **ranks(6, 1), HAS_ORDER=True, ADD=True)
    options = None if name == 'forward_kernel' else dict(num_warps=4)
    assert not wide_leaves(compiled(kernel, 90, 1, options=options, **constants).ttir)
