"""tools/slurm_train.sh with programs in Slurm's place: what it submits, and when it queues a job again."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.promise('slurm')
STUBS = {
    'sbatch': 'printf "%s\\n" "$@" > "$LOG/sbatch"',
    # The command behind the options of srun; a task that gets SIGTERM leaves with 75 like the training does.
    'srun': 'printf "%s " "$@" > "$LOG/srun"\n'
    'echo $$ > "$LOG/srun.pid.new"; mv "$LOG/srun.pid.new" "$LOG/srun.pid"\n'
    'if [ "$CODE" = hang ]; then trap "exit 143" TERM; while :; do sleep 0.1; done; fi\n'
    'exit "$CODE"',
    'squeue': 'echo "${STATE:-RUNNING}"',
    'scontrol': 'echo "$@" > "$LOG/scontrol"',
    'scancel': 'echo "$@" > "$LOG/scancel"; kill "$(cat "$LOG/srun.pid")"',
}


@pytest.fixture
def start(tmp_path):
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, body in STUBS.items():
        (programs / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
        (programs / name).chmod(0o755)

    def start(*arguments, **environment):
        env = {key: value for key, value in os.environ.items() if not key.startswith('SLURM_')}
        env |= dict(PATH=f'{programs}:{env["PATH"]}', LOG=str(tmp_path), PYTHON=sys.executable, **environment)
        return subprocess.Popen(
            ['bash', 'tools/slurm_train.sh', 'gpu', 'job', 'a config.py', *arguments],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_submits_a_job_that_can_be_queued_again(start, tmp_path):
    process = start('--work-dir', 'my dir', GPUS='16', SBATCH_ARGS='--time=60 --qos=low')
    assert process.wait(timeout=300) == 0
    lines = (tmp_path / 'sbatch').read_text().splitlines()
    assert {'--requeue', '--signal=B:TERM@120', '--ntasks=16', '--ntasks-per-node=8', '--time=60', '--qos=low'} <= set(
        lines
    )
    script = lines[lines.index('--wrap') + 1]
    assert script.startswith('exec bash ') and script.rstrip().endswith(r'gpu job a\ config.py --work-dir my\ dir')
    inside = dict(SLURM_JOB_ID='7', LOG=str(tmp_path), CODE='0', PATH=f'{tmp_path}/bin:{os.environ["PATH"]}')
    job = subprocess.run(['sh', '-c', script], env={**os.environ, **inside})
    assert job.returncode == 0 and '--launcher slurm --work-dir my dir' in (tmp_path / 'srun').read_text()


@pytest.mark.parametrize(
    'code, restarts, state, again',
    [
        (0, 0, 'RUNNING', False),
        (1, 0, 'RUNNING', False),
        (2, 0, 'RUNNING', False),
        (75, 0, 'RUNNING', True),
        (75, 9, 'RUNNING', True),
        (75, 0, 'COMPLETING', False),
        (4, 2, 'RUNNING', True),
        (4, 3, 'RUNNING', False),
    ],
)
def test_queues_again(start, tmp_path, code, restarts, state, again):
    process = start(
        '--resume', 'x.pth', SLURM_JOB_ID='7', CODE=str(code), SLURM_RESTART_COUNT=str(restarts), STATE=state
    )
    assert process.wait(timeout=300) == code
    assert (tmp_path / 'scontrol').exists() == again
    if again:
        assert (tmp_path / 'scontrol').read_text() == 'requeue 7\n'
    options = (tmp_path / 'srun').read_text().split()
    assert options[-2:] == (['--resume', 'auto'] if restarts else ['--resume', 'x.pth'])
    assert options.count('--resume') == (2 if restarts else 1)  # the last one counts


def test_passes_the_signal_on_and_queues_again(start, tmp_path):
    process = start(SLURM_JOB_ID='7', CODE='hang')
    while not (tmp_path / 'srun.pid').exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert (tmp_path / 'scancel').read_text() == '--signal=TERM 7\n'
    assert (tmp_path / 'scontrol').read_text() == 'requeue 7\n'
