"""The Triton kernels where there is no GPU: values in the interpreter, machine code compiled ahead of time."""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip('triton', reason='triton is not installed; pip install triton')

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmbackbones.ops.selective_scan import ScanArguments
from mmbackbones.ops.selective_scan import triton as package
from mmbackbones.ops.selective_scan.triton import host as backend
from mmbackbones.ops.selective_scan.triton import kernels
from tests.ops.scan_cases import random_inputs

if os.environ.get('TRITON_INTERPRET') == '1':
    pytest.skip('under TRITON_INTERPRET=1 nothing can be compiled', allow_module_level=True)

TOOLS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
# What stands in the kernels' tuples.
STRIDES = ('x_batch', 'x_time', 'delta_batch', 'delta_time', 'z_batch', 'z_time')
TUPLES = {
    'forward_kernel': dict(
        sequences=('u', 'delta', 'z', 'total', 'kept', 'out'),
        maps=('B', 'C'),
        vectors=('D', 'delta_bias', 'conv_weight', 'conv_bias'),
        strides=STRIDES,
    ),
    'segment_kernel': dict(
        sequences=('x', 'delta', 'z'), vectors=('delta_bias', 'conv_weight', 'conv_bias'), strides=STRIDES
    ),
    '_backward': dict(
        sequences=('dout', 'u', 'delta', 'z', 'kept', 'du', 'ddelta', 'dz'),
        maps=('B', 'C', 'dB', 'dC'),
        vectors=('D', 'delta_bias', 'dD', 'ddelta_bias'),
        strides=('dout_batch', 'dout_time', *STRIDES),
    ),
    'carry_kernel': {},
    'project_kernel': dict(filters=('weight', 'bias'), strides=('x_batch', 'x_time', 'projected_time')),
    'conv_kernel': dict(filters=('weight', 'bias'), strides=('x_batch', 'x_time')),
    'conv_backward_kernel': dict(filters=('weight', 'bias'), strides=('x_batch', 'x_time')),
}
SEQUENCES = ('u', 'delta', 'z', 'out', 'dout', 'du', 'ddelta', 'dz', 'x', 'kept', 'projection')
INTEGERS = ('dim', 'groups', 'length', 'tokens', 'segments', 'segment_length', 'batch_size', 'elements', 'columns')
# What a kernel is given and what it does; the constants of the kernels among them are passed on.
FLAGS = dict(
    HAS_D=True,
    HAS_Z=True,
    HAS_BIAS=True,
    SOFTPLUS=True,
    REVERSE=True,
    SAVE=True,
    SEGMENTED=False,
    HAS_ENTRY=False,
    HAS_LAST=False,
    BACKWARD=True,
    HAS_ORDER=False,
    PADDED=False,
    RANK=0,
    TILE=1,
    TAPS=0,
    HAS_CONV_BIAS=False,
    ADD=False,
    KEEP=False,
    DZ='states',
)
SEGMENT_UNROLL = 4


@pytest.mark.parametrize('markers', ['not full', pytest.param('full', marks=pytest.mark.full)])
def test_in_the_interpreter(markers):
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        '-m',
        markers,
        str(Path(__file__).with_name('triton_interpreted.py')),
    ]
    environment = dict(os.environ, TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert ' passed' in result.stdout


def test_module_needs_no_triton():
    program = (
        'import sys; sys.modules["triton"] = None\n'
        'from mmbackbones.ops.selective_scan import triton as backend\n'
        'print(backend.available(), backend.saved_shape(2, 6, 70, 16))'
    )
    output = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == 'triton is not installed; pip install triton (2, 3, 16, 6)'


class Machine(NamedTuple):
    """What the assembler made of a kernel."""

    registers: int
    stack: int
    instructions: list[str]
    hot: Counter
    """Instructions of the longest innermost loop by name; of all where there is no loop."""
    ttir: str


def absent(name: str, flags: dict) -> set[str]:
    """The tensors that a kernel isn't given."""
    backward = name == '_backward'
    given = dict(
        D=flags['HAS_D'],
        dD=flags['HAS_D'],
        z=flags['HAS_Z'],
        delta_bias=flags['HAS_BIAS'],
        ddelta_bias=flags['HAS_BIAS'],
        bias=flags['HAS_BIAS'],
        conv_weight=flags['TAPS'],
        conv_bias=flags['HAS_CONV_BIAS'],
        order=flags['HAS_ORDER'],
        total=flags['ADD'],
        kept=flags['DZ'] == 'kept' if backward else flags['KEEP'],
        dz=flags['DZ'] != 'none',
        saved=backward or flags['SAVE'],
        entry=name == 'carry_kernel' or flags['HAS_ENTRY' if backward else 'SEGMENTED'],
        last_state=name == 'forward_kernel' or flags['HAS_LAST'],
        step_weight=flags['RANK'],
    )
    return {tensor for tensor, there in given.items() if not there}


def compiled(kernel, capability: int, state: int, dtype: str = 'bf16', options: dict | None = None, **flags) -> Machine:
    flags = FLAGS | backend.sizes(state) | dict(BLOCK=backend.BLOCK) | flags
    flags.setdefault('MAP_ROW', flags['NB'])
    flags.setdefault('AHEAD', backend.ahead(flags['NB'], flags['HAS_ORDER'], flags['RANK']))
    name = kernel.fn.__name__
    unaligned = {p.name for p in kernel.params if p.do_not_specialize or p.do_not_specialize_on_alignment}
    constants, attributes, missing = {}, {}, absent(name, flags)

    def type_of(argument: str, path: tuple[int, ...]) -> str:
        if argument in missing or (argument in flags and len(path) == 1):
            constants[path] = None if argument in missing else flags[argument]
            return 'constexpr'
        if argument not in unaligned:
            attributes[path] = [['tt.divisibility', 16]]
        if argument in INTEGERS or argument.endswith(('_batch', '_time')):
            return 'i32'
        if argument == 'order':
            return '*i64'
        return f'*{dtype if argument in SEQUENCES and not (argument == "delta" and flags["RANK"]) else "fp32"}'

    signature = {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in TUPLES[name]:
            signature[argument] = tuple(type_of(item, (i, j)) for j, item in enumerate(TUPLES[name][argument]))
        else:
            signature[argument] = type_of(argument, (i,))
    source = ASTSource(fn=kernel, signature=signature, attrs=attributes, constexprs=constants)
    # Those without states are launched with the compiler's own four warps.
    if options is None:
        scans = 'NB' in kernel.arg_names
        options = backend.launch_options(flags['NB'], name == '_backward') if scans else dict(num_warps=4)
    return analysed(triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options))


def analysed(binary) -> Machine:
    usage = disassembled(binary, 'cuobjdump', '--dump-resource-usage')
    registers, stack = (int(re.search(rf'{name}:(\d+)', usage)[1]) for name in ('REG', 'STACK'))
    instructions, labels = [], {}
    for line in disassembled(binary, 'nvdisasm', '-c').splitlines():
        if label := re.match(r'\s*(\.L_x_\d+):', line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r'\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.*?);', line):
            instructions.append(instruction[1].strip())
    loops = [
        (labels[target[1]], i)
        for i, text in enumerate(instructions)
        if (target := re.search(r'^BRA.*`\((\.L_x_\d+)\)', text)) and labels[target[1]] < i
    ]
    innermost = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    first, last = max(innermost, key=lambda loop: loop[1] - loop[0], default=(0, len(instructions) - 1))
    hot = Counter(text.split()[0].split('.')[0] for text in instructions[first : last + 1])
    return Machine(registers, stack, instructions, hot, binary.asm['ttir'])


def disassembled(binary, name: str, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(binary.asm['cubin'])
        file.flush()
        return subprocess.run([TOOLS / name, *arguments, file.name], capture_output=True, text=True, check=True).stdout


def assert_no_spill(machine: Machine) -> None:
    assert machine.stack == 0
    assert not [text for text in machine.instructions if text.startswith(('STL', 'LDL'))]


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_forward_budget(capability, reverse):
    machine = compiled(kernels.forward_kernel, capability, 16, REVERSE=reverse)
    assert_no_spill(machine)
    assert machine.hot['SHFL'] == 0 and machine.hot['BAR'] == 0
    assert machine.hot.total() / (backend.ahead(16, False) * 16) <= 10


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_backward_budget(capability, reverse):
    steps = backend.sizes(16)['STEPS']
    machine = compiled(kernels.backward_for(16), capability, 16, REVERSE=reverse)
    assert_no_spill(machine)
    assert machine.hot['SHFL'] / (steps * 16) <= 3
    assert machine.hot.total() / (steps * 16) <= 34.5


def test_one_state_budget():
    forward = compiled(kernels.forward_kernel, 90, 1)
    assert_no_spill(forward)
    assert forward.hot['SHFL'] == 0 and forward.hot.total() / backend.ahead(1, False) <= 66
    backward = compiled(kernels.backward_for(1), 90, 1)
    assert_no_spill(backward)
    assert backward.hot['SHFL'] / backend.sizes(1)['STEPS'] <= 10
    assert backward.hot.total() / backend.sizes(1)['STEPS'] <= 190


@pytest.mark.parametrize('backward', [False, True], ids=['forward', 'backward'])
def test_segment_budget(backward):
    machine = compiled(kernels.segment_kernel, 90, 16, BACKWARD=backward)
    assert_no_spill(machine)
    assert machine.hot['SHFL'] == 0
    assert machine.hot.total() / (SEGMENT_UNROLL * 16) <= 8
    assert_no_spill(compiled(kernels.carry_kernel, 90, 16, BLOCK=128, AHEAD=8, BACKWARD=backward, HAS_LAST=backward))


@pytest.mark.full
@pytest.mark.parametrize('dtype', ['bf16', 'fp32'])
@pytest.mark.parametrize('state', [1, 2, 3, 4, 5, 8, 16, 32, 64])
@pytest.mark.parametrize('capability', [80, 90, 100])
def test_nothing_spills(capability, state, dtype):
    padded = backend.sizes(state)['NB']
    assert_no_spill(compiled(kernels.forward_kernel, capability, state, dtype))
    for reverse, entry in ((False, True), (True, False)):
        flags = dict(REVERSE=reverse, HAS_ENTRY=entry, HAS_Z=entry)
        assert_no_spill(compiled(kernels.backward_for(padded), capability, state, dtype, **flags))


@pytest.mark.parametrize(
    'name', ['forward_kernel', 'segment_kernel', 'carry_kernel', 'backward_kernel', 'backward_kernel_few_states']
)
def test_no_kernel_is_made_for_a_length(name):
    kernel = getattr(kernels, name)
    assert isinstance(kernel, triton.runtime.JITFunction)
    free = {p.name for p in kernel.params if p.do_not_specialize}
    assert free == {'length', 'tokens', 'segments', 'segment_length', 'batch_size', 'groups'} & set(kernel.arg_names)


def compile_only(monkeypatch) -> list[tuple[str, str]]:
    """Makes launches stop at the machine code, with the driver of a GPU that is not there; what has been launched."""

    class Driver:
        def get_current_target(self):
            return GPUTarget('cuda', 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    launched = []
    run = triton.runtime.JITFunction.run

    def compile_only(self, *args, warmup, **options):
        binary = run(self, *args, warmup=True, **options)
        launched.append((self.fn.__name__, binary.hash))
        return binary

    monkeypatch.setattr(triton.runtime.driver, '_active', Driver())
    monkeypatch.setattr(triton.runtime.JITFunction, 'run', compile_only)
    return launched


def test_launches_bind_and_one_compilation_serves_every_length(monkeypatch):
    """The host's own launches, up to the machine code."""
    launched = compile_only(monkeypatch)
    monkeypatch.setattr(backend, 'wanted_segments', lambda programs, chunks, *_: min(chunks, 3))
    launches = []
    for batch, length in ((1, 70), (2, 77), (3, 160)):
        inputs = random_inputs(batch, 32, length, 8, 1, dtype=torch.bfloat16)
        inputs |= {name: inputs[name].float() for name in ('A', 'D', 'delta_bias')}
        scan = ScanArguments(*inputs.values(), True, False, None)
        out, _, saved = package.forward(scan, save=True)
        package.backward(scan, torch.empty_like(out), None, saved)
        launches.append(tuple(launched))
        launched.clear()
    assert [name for name, _ in launches[0]] == [
        'segment_kernel',
        'carry_kernel',
        'forward_kernel',
        'segment_kernel',
        'carry_kernel',
        '_backward',
    ]
    assert len(set(launches)) == 1


def wide_leaves(ttir: str) -> set[str]:
    """What a 32-bit offset depends on and could exceed 2^31 with: the program's number, the length.

    Offsets are what is added to a pointer to one element, and products with a stride.
    """
    definitions = dict(re.findall(r'^\s*(%[\w$.-]+)(?::\d+)? = (.*?)(?: loc\(.*)?$', ttir, flags=re.MULTILINE))
    found = set()

    def visit(name):
        text = definitions.get(name, '')
        if 'tt.get_program_id' in text or name in ('%length', '%segment_length', '%segments'):
            found.add(name)
        # The smaller of something and a constant stays small.
        if text.startswith('arith.') and not text.startswith('arith.minsi'):
            for operand in re.findall(r'%[\w$.-]+', text):
                visit(operand)

    for offset in re.findall(r'tt\.addptr %[\w$.#-]+, (%[\w$.-]+) : !tt\.ptr<\w+>, i32', ttir):
        visit(offset)
    for factors in re.findall(r'arith\.muli (%[\w$.-]+), (%[\w$.-]+) : i32', ttir):
        if any(re.fullmatch(r'%(dim|strides(_\d+)?)', factor) for factor in factors):
            for factor in factors:
                visit(factor)
    return found


@pytest.mark.parametrize('name', ['forward_kernel', 'segment_kernel', 'backward_kernel'])
def test_positions_are_64_bit(name):
    ttir = compiled(getattr(kernels, name), 90, 16).ttir
    assert len(re.findall(r'tt\.addptr .* : !tt\.ptr<\w+>, i64', ttir)) >= 5
    assert not wide_leaves(ttir)
