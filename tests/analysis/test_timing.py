"""What is compared takes turns, and a figure is what the clock and the memory of the process say."""

import contextlib
import time
from types import SimpleNamespace

import pytest
import torch

from mmbackbones.analysis import timing


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_functions_take_turns():
    called = []
    calls = {name: lambda name=name: called.append(name) for name in 'ab'}
    costs = timing.measure_in_turns(calls, rounds=3, device='cpu', sample_seconds=0)
    # each once for its memory and once for its repeats, then round by round
    assert ''.join(called) == 'aa' + 'bb' + 'ababab'
    assert [len(cost.seconds) for cost in costs.values()] == [3, 3]
    assert list(timing.in_turns(['x', 'y'], 2)) == ['x', 'y', 'x', 'y']


def test_short_functions_fill_their_sample():
    calls = []
    timing.measure_in_turns(dict(f=lambda: calls.append(0)), rounds=1, device='cpu', sample_seconds=0.01)
    assert len(calls) > 100


def test_one_thread_is_timed_by_its_own_processor_time():
    assert timing.clock_name('cpu') == 'CPU time' and timing.clock_name('cuda') == 'CUDA events'
    assert timing.seconds_of(lambda: time.sleep(0.05), 1, 'cpu') < 0.03
    torch.set_num_threads(2)
    assert timing.clock_name('cpu') == 'wall clock'
    assert timing.seconds_of(lambda: time.sleep(0.05), 1, 'cpu') >= 0.05


def test_wall_and_cpu():
    result, wall, cpu = timing.wall_and_cpu(lambda: time.sleep(0.05))
    assert result is None and wall >= 0.05 and cpu < 0.03


def test_median():
    assert timing.median([3.0, 1.0, 2.0]) == 2 and timing.median([4.0, 2.0]) == 3 and timing.median([]) is None


@pytest.mark.skipif(timing.process_bytes('VmHWM') is None, reason='memory is read from /proc')
def test_peak_memory_is_what_a_call_holds_at_most():
    def hold() -> None:
        torch.ones(25_000_000)  # 100 MB that are gone when it returns

    assert timing.peak_memory(hold, 'cpu') == pytest.approx(100e6, rel=0.1)
    assert timing.process_bytes('VmHWM') > 100e6 and timing.process_bytes('NoSuchField') is None
    assert timing.process_bytes('VmHWM', '/nowhere') is None


def test_the_wall_clock_stands_beside_the_processor_time():
    (cost,) = timing.measure_in_turns(dict(f=lambda: time.sleep(0.02)), 1, 'cpu', sample_seconds=0).values()
    assert cost.wall[0] >= 0.02 > cost.seconds[0]
    assert cost.replay == [] and cost.note == ''


@pytest.fixture
def device(monkeypatch):
    """Stands in for CUDA: what is launched, recorded and replayed, in order."""
    done = []

    class Graph:
        def replay(self):
            done.append('replay')

    @contextlib.contextmanager
    def graph(graph):
        done.append('record')
        try:
            yield
        except RuntimeError:
            raise RuntimeError('CUDA error: operation failed due to a previous error during capture')  # noqa: B904
        done.append('recorded')

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = dict(CUDAGraph=Graph, graph=graph, Stream=lambda: stream, current_stream=lambda: stream)
    fakes |= dict(stream=lambda stream: contextlib.nullcontext(), synchronize=lambda: done.append('wait'))
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, 'peak_memory', lambda function, device: 0)
    return done


def test_a_call_is_warm_before_it_is_recorded(device):
    replay = timing.recorded(lambda: device.append('call'))
    assert device == [*['call'] * timing.WARM_UP_CALLS, 'wait', 'record', 'call', 'recorded', 'replay', 'wait']
    device.clear()
    replay()
    assert device == ['replay']


def test_what_cannot_be_recorded_is_timed_and_says_why(device, monkeypatch):
    def waits():
        if device[-1:] == ['record']:
            raise RuntimeError('CUDA error: operation not permitted when stream is capturing\nCompile with TORCH_USE_…')

    calls = dict(fast=lambda: None, waits=waits)
    seconds = {calls['fast']: 4.0, waits: 5.0}
    monkeypatch.setattr(timing, 'times_of', lambda f, repeats, device: (seconds.get(f, 1.0), 2 * seconds.get(f, 1.0)))
    costs = timing.measure_in_turns(calls, 2, 'cuda', sample_seconds=0)
    assert costs['fast'] == timing.Cost(seconds=[4, 4], wall=[8, 8], replay=[1, 1], peak=0)
    assert costs['waits'].seconds == [5, 5] and costs['waits'].replay == []
    assert costs['waits'].note == (
        'no replay, the call cannot be recorded as a CUDA graph: CUDA error: operation not permitted when stream is '
        'capturing'
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device, and PyTorch sees none')
def test_replay_on_a_gpu():
    x = torch.ones(3, device='cuda')
    replay = timing.recorded(lambda: x.add_(1))
    before = x.clone()
    replay()
    assert torch.equal(x, before + 1)
    with pytest.raises(timing.NotRecordable, match='cannot be recorded as a CUDA graph: '):
        timing.recorded(lambda: x.sum().item())
