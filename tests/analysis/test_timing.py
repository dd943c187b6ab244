"""What is compared takes turns, and a figure is what the clock and the memory of the process say."""

import time

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
