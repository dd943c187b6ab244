"""How the commands end."""

import contextlib
import time
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError, Preempted


@pytest.mark.parametrize('error, exit_code', [(InputError, 2), (Preempted, 75), (None, 0)])
def test_no_thread_of_the_process_group_outlives_the_command(tmp_path, capsys, error, exit_code):
    """They abort a process that ends while they run, and its exit status is lost."""

    def command(argv: list[str] | None) -> None:
        torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
        model = DistributedDataParallel(nn.Linear(2, 2))
        model.itself = [model]  # as a runner and its hooks
        model(torch.ones(1, 2)).sum().backward()
        assert group_threads() - before
        if error:
            raise error('a sentence')

    before = group_threads()
    if exit_code:
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        assert ended.value.code == exit_code
        assert capsys.readouterr().err == 'error: a sentence\n'
    else:
        run_command(command)
    assert not torch.distributed.is_initialized()
    until = time.monotonic() + 10
    while group_threads() - before and time.monotonic() < until:  # one that was joined may still be on its way out
        time.sleep(0.01)
    assert not group_threads() - before


def group_threads() -> set[str]:
    found = set()
    for task in Path('/proc/self/task').iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if 'gloo' in (task / 'comm').read_text():
                found.add(task.name)
    return found
