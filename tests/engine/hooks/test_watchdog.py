"""A run that hangs says where and ends."""

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from mmbackbones.engine.hooks.watchdog import WatchdogHook
from mmbackbones.errors import InputError
from tests.engine.runs import Net, make

pytestmark = pytest.mark.promise('hang')


class Stuck(torch.utils.data.Dataset):
    """Never returns its sixth sample."""

    def __init__(self):
        self.left = 5

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            threading.Event().wait()
        return dict(inputs=torch.full((2,), float(index)))


class StuckNet(Net):
    def forward(self, inputs, mode='tensor'):
        if mode == 'loss' and inputs.requires_grad is False:
            threading.Event().wait()


@pytest.mark.skipif(torch.cuda.is_available(), reason='forks, after which CUDA cannot be used')
@pytest.mark.parametrize(
    'options, message',
    [
        (lambda: dict(dataset=Stuck()), 'error: hangs after iteration 2, for {} s waiting for the next batch'),
        (
            lambda: dict(model=StuckNet()),
            'error: hangs after iteration 0, for {} s inside a training step: a collective',
        ),
    ],
    ids=['data', 'step'],
)
def test_ends_a_hang(tmp_path, options, message):
    output = tmp_path / 'stderr'
    pid = os.fork()
    if pid == 0:
        with output.open('w') as stream:
            os.dup2(stream.fileno(), 2)
            sys.stderr = stream
            make(tmp_path, hooks=dict(watchdog=dict(type='mmbackbones.WatchdogHook', timeout=5.0)), **options()).train()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    (line,) = [line for line in output.read_text().splitlines() if line.startswith('error: ')]
    start, end = message.split('{}')
    assert line.startswith(start) and end in line and f'stacks: {tmp_path}/hang_rank0.txt' in line
    stacks = Path(tmp_path, 'hang_rank0.txt').read_text()
    assert 'Current thread' in stacks and 'test_watchdog.py' in stacks


class StuckOnCuda(Net):
    def forward(self, inputs, mode='tensor'):
        torch.cuda._sleep(1 << 62)  # clock cycles
        torch.cuda.synchronize()


def train_stuck_on_cuda(folder: Path) -> None:
    with (folder / 'stderr').open('w') as stream:
        os.dup2(stream.fileno(), 2)
    make(folder, model=StuckOnCuda(), hooks=dict(watchdog=dict(type='mmbackbones.WatchdogHook', timeout=5.0))).train()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device: a hang on it')
def test_ends_a_hang_of_the_gpu(tmp_path):
    process = torch.multiprocessing.get_context('spawn').Process(target=train_stuck_on_cuda, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 4
    assert 'error: hangs after iteration 0, for ' in (tmp_path / 'stderr').read_text()
    assert 'synchronize' in (tmp_path / 'hang_rank0.txt').read_text()


def test_leaves_a_run_that_works_alone(tmp_path):
    make(tmp_path, val=True, hooks=dict(watchdog=dict(type='mmbackbones.WatchdogHook', timeout=300.0))).train()
    for thread in threading.enumerate():
        if thread.name == 'watchdog':
            thread.join(timeout=100)
            assert not thread.is_alive()


def test_timeout_out_of_range():
    with pytest.raises(InputError, match='timeout=0 must be positive'):
        WatchdogHook(timeout=0)
