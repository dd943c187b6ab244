"""A command in a process of its own leaves its output in a log, and a failure names it."""

import pytest

from mmbackbones.engine.process import run_logged
from mmbackbones.errors import InputError


def test_a_failure_names_the_log_and_the_reason(tmp_path):
    log = tmp_path / 'new' / 'train.log'
    with pytest.raises(InputError) as caught:
        run_logged('train', ['nowhere.py'], log, 'size 64')
    reason = 'error: nowhere.py: no such config file'
    assert str(caught.value) == f'size 64 ended with status 2; the log is {log} ({reason})'
    assert reason in log.read_text()


def test_help_is_a_success(tmp_path):
    run_logged('test', ['--help'], tmp_path / 'test.log', 'help')
    assert '--cfg-options' in (tmp_path / 'test.log').read_text()
