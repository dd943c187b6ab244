"""A suite that is stopped takes its trainings with it, and starts none that still runs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmbackbones.engine.work_dir import only_training
from mmbackbones.launch.stopping import StoppableCommand
from mmbackbones.launch.suite import load_suite, run_suite
from tests.launch.test_suite import write
from tests.miniatures import SEGMENTOR

# A training that takes a moment to save when it is told to stop.
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.3)
    open(sys.argv[1], 'w').write('saved')
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], 'w').write('started')
time.sleep(60)
"""


@pytest.mark.parametrize('own_group', [False, True])
def test_the_command_saves_and_no_further_one_starts(tmp_path, own_group):
    file = tmp_path / 'state'

    def stop():
        while not file.exists() or file.read_text() != 'started':
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with StoppableCommand() as run:
        threading.Thread(target=stop).start()
        with pytest.raises(subprocess.CalledProcessError) as stopped:
            run([sys.executable, '-c', SAVES, str(file)], dict(os.environ), own_group)
        assert stopped.value.returncode == 75 and file.read_text() == 'saved'
        with pytest.raises(subprocess.CalledProcessError):
            run([sys.executable, '-c', '', str(file)], dict(os.environ))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_still_runs_is_not_started(tmp_path):
    suite = load_suite(write(tmp_path / 's.yaml', configs=[SEGMENTOR], seeds=[0]), tmp_path)
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with only_training(suite.runs[0].work_dir):
            os.write(told, b'.')
            signal.pause()
        os._exit(0)
    os.read(ready, 1)
    try:
        assert suite.runs[0].state() == 'running'
        ((run, news),) = run_suite(suite, tmp_path)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert run is suite.runs[0] and news.startswith(f'not started, it is running already: process {pid} on ')
    assert suite.runs[0].state() == 'new'
