"""Accumulation and processes give the step of the large batch."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper

from mmbackbones.engine.runner import Runner
from tests.conftest import ROOT
from tests.reliability.launching import ENVIRONMENT, TIMEOUT, free_port
from tests.reliability.one_step import one_step


@pytest.mark.promise('large-batch')
@pytest.mark.parametrize('accumulated', [2, 4])
def test_accumulation_equals_the_large_batch(accumulated):
    whole, parts, half = one_step(0, 1, 1), one_step(0, 1, accumulated), one_step(0, 2, 1)
    torch.testing.assert_close(dict(parts), dict(whole))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(dict(half), dict(whole))


@pytest.mark.slow
@pytest.mark.promise('large-batch')
@pytest.mark.parametrize(('processes', 'accumulated'), [(2, 2), (4, 1)])
def test_processes_equal_the_large_batch(processes, accumulated, tmp_path):
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        f'--nproc_per_node={processes}',
        f'--master_port={free_port()}',
        'tests/reliability/one_step.py',
        str(tmp_path / 'w'),
        str(accumulated),
    ]
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ENVIRONMENT, 'PYTHONPATH': str(ROOT)}, check=True, timeout=TIMEOUT
    )
    torch.testing.assert_close(dict(torch.load(tmp_path / 'w', weights_only=True)), dict(one_step(0, 1, 1)))


@pytest.mark.promise('large-batch')
@pytest.mark.parametrize(
    ('batch', 'processes', 'accumulated', 'factor'),
    [(2, 8, 1, 1.0), (2, 4, 2, 1.0), (4, 1, 4, 1.0), (16, 1, 1, 1.0), (8, 4, 1, 2.0), (2, 1, 2, 0.25)],
)
def test_scaled_rate_counts_accumulated_images(batch, processes, accumulated, factor, monkeypatch):
    runner = Runner.__new__(Runner)
    runner._train_dataloader, runner.param_schedulers = ConfigDict(batch_size=batch), None
    monkeypatch.setattr(Runner, 'world_size', processes)
    runner.logger = logging.getLogger(__name__)
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=0.5), accumulative_counts=accumulated)
    runner.scale_lr(wrapper, dict(enable=True, base_batch_size=16))
    assert wrapper.get_lr()['lr'] == [0.5 * factor]
