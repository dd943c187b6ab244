"""Real processes by torchrun with gloo give the same results, whatever their number.

They run on one machine, and on two, which are network namespaces.
"""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbackbones.datasets.shapes import write_shapes
from tests.reliability.harness import same_bits
from tests.reliability.launching import (
    DETECTOR,
    SEGMENTOR,
    by,
    end,
    faulty,
    finish,
    kill_a_worker,
    options,
    start_on,
    start_two,
    until_third_step,
)


def record(folder: Path) -> dict:
    return json.loads((folder / 'run.json').read_text())


@pytest.fixture(scope='module', params=[DETECTOR, SEGMENTOR], ids=['detector', 'segmentor'])
def trained(request, tmp_path_factory, shapes) -> tuple[str, Path]:
    work_dir = tmp_path_factory.mktemp('trained')
    by(1, 'train', request.param, '--work-dir', work_dir, *options(shapes, request.param), 'train_cfg.max_iters=4')
    return request.param, work_dir


@pytest.fixture(scope='module')
def by_two(tmp_path_factory, shapes) -> Path:
    """Work dir of four iterations of two processes."""
    work_dir = tmp_path_factory.mktemp('by_two')
    by(2, 'train', SEGMENTOR, '--work-dir', work_dir, *options(shapes, SEGMENTOR), 'train_cfg.max_iters=4')
    return work_dir


def assert_same_training(one: Path, other: Path) -> None:
    """Every bit of weights, optimizer, schedule and the random states of all processes."""
    one, other = (torch.load(path, weights_only=True) for path in (one, other))
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'progress'):
        assert not same_bits(one[key], other[key], key)


@pytest.mark.slow
@pytest.mark.promise('processes-scores')
@pytest.mark.parametrize('processes', [2, 4])
def test_seven_images(trained, processes, shapes, tmp_path):
    """One image less than equal shares: the same predictions, image by image, and the same scores."""
    config, work_dir = trained
    by(
        processes,
        'test',
        config,
        work_dir / 'iter_4.pth',
        '--work-dir',
        tmp_path / 'w',
        '--out',
        tmp_path / 'out',
        *options(shapes, config),
    )
    ours, alone = record(tmp_path / 'out'), record(work_dir / 'final')
    assert ours['world_size'] == processes and len(ours['image_ids']) == 7
    assert ours['metrics'] == pytest.approx(alone['metrics'], abs=1e-6)
    assert alone['metrics']['mIoU' if config == SEGMENTOR else 'coco/bbox_mAP_50'] > 0
    if config == SEGMENTOR:
        with np.load(tmp_path / 'out/areas.npz') as one, np.load(work_dir / 'final/areas.npz') as other:
            assert all(np.array_equal(one[key], other[key]) for key in other.files)
        return
    for kind in ('bbox', 'segm'):  # the metrics have three digits
        ours, alone = (
            json.loads((folder / f'predictions.{kind}.json').read_text())
            for folder in (tmp_path / 'out', work_dir / 'final')
        )
        assert len(ours) == len(alone) > 0
        for one, other in zip(
            *(sorted(found, key=lambda item: (item['image_id'], -item['score'], str(item))) for found in (ours, alone))
        ):
            assert one['image_id'] == other['image_id'] and one['category_id'] == other['category_id']
            assert [one['score'], *one['bbox']] == pytest.approx([other['score'], *other['bbox']], abs=1e-6)
            assert one.get('segmentation') == other.get('segmentation')


@pytest.mark.slow
@pytest.mark.promise('processes-resume')
@pytest.mark.parametrize('trained', [SEGMENTOR], indirect=True, ids=['segmentor'])
def test_resume_with_another_number_of_processes(trained, shapes, tmp_path):
    """One process to iteration 4, two to 6, four to 8; each says what it cannot restore, and the schedule goes on."""
    config, first = trained
    common = [*options(shapes, config)]
    by(2, 'train', config, '--work-dir', tmp_path, '--resume', first / 'iter_4.pth', *common, 'train_cfg.max_iters=6')
    assert record(tmp_path / 'final')['world_size'] == 2
    text = by(4, 'train', config, '--work-dir', tmp_path, '--resume', *common, 'train_cfg.max_iters=8')
    assert 'iter_6.pth' in text and re.findall(r'Iter\(train\) \[ *(\d+)/8\]', text) == ['7', '8']
    assert 'resumed with another number of processes: the random states begin anew' in text
    last = torch.load(tmp_path / 'iter_8.pth', weights_only=True)
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {8}
    done = record(tmp_path / 'final')
    assert done['world_size'] == 4 and done['iterations'] == 8 and done['resumed']


@pytest.mark.slow
@pytest.mark.promise('data-drop', 'large-batch')
def test_two_processes_drop_the_same_and_scale_the_rate(shapes, tmp_path):
    """The faulty mask is left out in both; 2 images x 2 processes x 2 accumulated, of 16: half the rate."""
    spoilt = write_shapes(tmp_path / 'shapes', train=5, val=2)
    (spoilt / 'ade20k/annotations/training/ADE_train_00000004.png').write_bytes(b'404')
    text = by(
        2,
        'train',
        SEGMENTOR,
        '--work-dir',
        tmp_path / 'w',
        '--auto-scale-lr',
        *options(spoilt, SEGMENTOR),
        'train_cfg.max_iters=2',
        'data_check=drop',
        'optim_wrapper.accumulative_counts=2',
    )
    assert 'left out of the training (images: 1)' in text and 'ADE_train_00000004.png: not a readable mask' in text
    assert len((tmp_path / 'w/data_kept_0.txt').read_text().split()) == 4
    assert 'Scaling the original LR by 0.5' in text


@pytest.mark.slow
@pytest.mark.promise('sigterm')
def test_sigterm_to_one_of_two_processes(by_two, shapes, tmp_path, figure):
    """In the second step; they agree after the third, save, and stop. Resumed, it is the uninterrupted run."""
    config = faulty(tmp_path, 'TerminatedRank', preemption=dict(agree_every=3))
    common = ['--work-dir', tmp_path / 'w', *options(shapes, SEGMENTOR), 'train_cfg.max_iters=4']
    text = end(start_two(config, *common))
    assert 'SIGTERM: stopped at iteration 3; the newest checkpoint is iter_3.pth' in text, text[-3000:]
    assert re.search(r'exitcode *: 75 ', text), text[-3000:]
    by(2, 'train', SEGMENTOR, '--resume', 'auto', *common)
    assert_same_training(by_two / 'iter_4.pth', tmp_path / 'w/iter_4.pth')
    figure('2 processes: every bit equal')


@pytest.fixture(scope='module')
def machines() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable, by name."""
    names = [f'mmb{os.getpid()}{end}' for end in 'ab']
    setup = [*(f'netns add {name}' for name in names), f'link add {names[0]} type veth peer name {names[1]}']
    for number, name in enumerate(names, 1):
        setup += [
            f'link set {name} netns {name}',
            f'-n {name} addr add 10.199.7.{number}/24 dev {name}',
            f'-n {name} link set {name} up',
            f'-n {name} link set lo up',
        ]
    try:
        for line in setup:
            try:
                subprocess.run(['ip', *line.split()], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f'no network namespaces here: ip {line}: {getattr(error, "stderr", error)}'.strip())
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


@pytest.mark.slow
@pytest.mark.promise('machines')
@pytest.mark.parametrize('trained', [SEGMENTOR], indirect=True, ids=['segmentor'])
def test_two_machines_test_as_one_process(trained, machines, shapes, tmp_path):
    """Four images on one, three on the other."""
    config, work_dir = trained
    for run in start_on(
        machines,
        'tools/dist_test.sh',
        config,
        work_dir / 'iter_4.pth',
        1,
        '--work-dir',
        tmp_path / 'w',
        '--out',
        tmp_path / 'out',
        *options(shapes, config),
    ):
        finish(run)
    assert record(tmp_path / 'out')['world_size'] == 2
    assert record(tmp_path / 'out')['metrics'] == pytest.approx(record(work_dir / 'final')['metrics'], abs=1e-6)


@pytest.mark.slow
@pytest.mark.promise('machines')
def test_two_machines_train_as_one(machines, by_two, shapes, tmp_path, figure):
    """A process on each gives what two on one machine give, bit for bit. What they began, one machine ends: two
    processes as if nothing had happened, one with random states of its own."""
    common = [*options(shapes, SEGMENTOR), 'train_cfg.max_iters=4']
    for run in start_on(machines, 'tools/dist_train.sh', SEGMENTOR, 1, '--work-dir', tmp_path / 'two', *common):
        finish(run)
    by(2, 'train', SEGMENTOR, '--work-dir', tmp_path / 'ended', '--resume', tmp_path / 'two/iter_2.pth', *common)
    for name in ('two', 'ended'):
        assert_same_training(by_two / 'iter_4.pth', tmp_path / name / 'iter_4.pth')
    figure('trained on two machines, and ended by two processes on one: every bit equal')
    assert record(tmp_path / 'two/final')['metrics'] == record(by_two / 'final')['metrics']
    text = by(1, 'train', SEGMENTOR, '--work-dir', tmp_path / 'two', '--resume', *common[:-1], 'train_cfg.max_iters=6')
    assert 'iter_4.pth' in text and re.findall(r'Iter\(train\) \[ *(\d+)/6\]', text) == ['5', '6']
    last = torch.load(tmp_path / 'two/iter_6.pth', weights_only=True)
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {6}


@pytest.mark.slow
@pytest.mark.promise('process-killed', 'machines')
def test_a_machine_whose_process_is_killed_stops_the_other(machines, shapes, tmp_path, figure):
    here, there = start_on(
        machines,
        'tools/dist_train.sh',
        SEGMENTOR,
        1,
        '--work-dir',
        tmp_path,
        *options(shapes, SEGMENTOR),
        'train_cfg.max_iters=100000',
    )
    until_third_step(here)
    victim = kill_a_worker(there, rank=1)
    killed = time.monotonic()
    texts = [end(run, timeout=60) for run in (here, there)]
    figure(f'2 machines: both stopped {time.monotonic() - killed:.1f} s after the kill')
    assert re.search(r'RuntimeError: .*([Cc]onnection (closed|reset) by peer)', texts[0]), texts[0][-3000:]
    assert f'Signal 9 (SIGKILL) received by PID {victim}' in texts[1], texts[1][-3000:]
