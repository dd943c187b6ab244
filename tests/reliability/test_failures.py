"""When one of several processes fails, all stop and say why."""

import json
import re
import time

import pytest
import torch

from tests.reliability.launching import (
    SEGMENTOR,
    end,
    faulty,
    free_port,
    kill_a_worker,
    options,
    start,
    start_two,
    until_third_step,
)


@pytest.mark.slow
@pytest.mark.promise('process-killed')
@pytest.mark.parametrize('processes', [2, 4])
def test_one_process_killed_stops_the_others(processes, shapes, tmp_path, figure):
    process = start(
        'tools/dist_train.sh',
        SEGMENTOR,
        processes,
        '--work-dir',
        tmp_path,
        *options(shapes, SEGMENTOR),
        'train_cfg.max_iters=100000',
        PORT=free_port(),
    )
    seen = until_third_step(process)
    victim = kill_a_worker(process, rank=1)
    killed = time.monotonic()
    text = seen + end(process, timeout=60)
    figure(f'{processes} processes: all stopped {time.monotonic() - killed:.1f} s after the kill')
    assert f'Signal 9 (SIGKILL) received by PID {victim}' in text, text[-3000:]


@pytest.mark.slow
@pytest.mark.promise('numerics')
def test_two_processes_skip_and_stop_together(shapes, tmp_path):
    """NaN in an image of process 1, in two steps; one skip is allowed. Each process names its own images."""
    config = faulty(tmp_path, 'SpoiltRank', numerics=dict(max_skips=1))
    text = end(start_two(config, '--work-dir', tmp_path / 'w', *options(shapes, SEGMENTOR), 'train_cfg.max_iters=100'))
    assert 'error: numerical trouble at iteration 4: ' in text and re.search(r'exitcode *: 3 ', text), text[-3000:]
    reports = {path.stem: json.loads(path.read_text()) for path in (tmp_path / 'w/numerical_trouble').iterdir()}
    assert {name: report['action'] for name, report in reports.items()} == {
        'iter_2_rank0': 'skipped (1 of 1)',
        'iter_2_rank1': 'skipped (1 of 1)',
        'iter_4_rank0': 'stopped',
        'iter_4_rank1': 'stopped',
    }
    assert [reports[f'iter_4_rank{rank}']['losses']['loss'] == 'nan' for rank in range(2)] == [False, True]
    assert all(report['gradients_not_finite']['count'] for report in reports.values())  # they are shared
    images = [set(reports[f'iter_4_rank{rank}']['images']) for rank in range(2)]
    assert all(images) and not images[0] & images[1]
    saved = torch.load(tmp_path / 'w/iter_2.pth', weights_only=True)['state_dict']
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.slow
@pytest.mark.promise('hang')
def test_a_process_that_hangs_ends_both(shapes, tmp_path, figure):
    """Process 1 stays within its step and the other waits for its gradients. Whichever watchdog is first, the launcher
    or the broken connection may end the other process before its own."""
    config = faulty(tmp_path, 'HangingRank', watchdog=dict(timeout=20.0))
    text = end(start_two(config, '--work-dir', tmp_path / 'w', *options(shapes, SEGMENTOR), 'train_cfg.max_iters=100'))
    assert re.search(r'exitcode *: 4 ', text), text[-3000:]
    stacks = {path.name: path.read_text() for path in (tmp_path / 'w').glob('hang_rank*.txt')}
    told = re.findall(r'error: process (\d) of 2 hangs after iteration \d+, for \d+ s inside a training step', text)
    told = {f'hang_rank{rank}.txt' for rank in told}
    assert told and told <= stacks.keys(), text[-3000:]
    where = {'hang_rank0.txt': 'backward', 'hang_rank1.txt': 'faulty_rank.py'}
    for name in told:  # the broken connection may just have thrown process 0 out of its step
        assert where[name] in stacks[name] or (name == 'hang_rank0.txt' and 'in run_iter' not in stacks[name]), stacks
    figure(f'2 processes: ended with code 4, {" and ".join(sorted(told))} written')
