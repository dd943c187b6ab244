"""Commands in README and docs: each tool exists and takes the options, each config exists; the marked blocks run."""

import argparse
import importlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from mmbackbones.__main__ import COMMANDS
from tests.conftest import ROOT
from tests.docs.pages import PAGES, Command, blocks, commands, lines_of, scratch

PLACEHOLDER = re.compile(r'[A-Z…]{2,}')
OPTIONS_OF_SCRIPTS = {
    'tools/run_tests.sh': {'--fast', '--full', '--install-browser'},
    'tools/setup_env.sh': {'--print-python'},
}
PARSERS_OF_SCRIPTS = {  # the tool that receives the arguments, and which of them the script takes itself
    'tools/dist_train.sh': ('tools/train.py', slice(1, 2)),
    'tools/dist_test.sh': ('tools/test.py', slice(2, 3)),
    'tools/slurm_train.sh': ('tools/train.py', slice(0, 2)),
    'tools/slurm_test.sh': ('tools/test.py', slice(0, 2)),
    'tools/quickstart.sh': ('mmbackbones.launch.quickstart', slice(0, 0)),
}


class Parsed(BaseException):
    """The parser took the arguments; the tool goes no further."""


@pytest.fixture
def parsers(monkeypatch):
    """Parsers that stop their tool, and refuse by an error with their message."""

    def stopping(parse):
        def parse_and_stop(self, args=None, namespace=None):
            raise Parsed(parse(self, args, namespace))

        return parse_and_stop

    def error(self, message):
        raise ValueError(message)

    for name in ('parse_args', 'parse_intermixed_args'):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(argparse.ArgumentParser, 'error', error)
    return monkeypatch


def fault(command: Command, parsers) -> str | None:
    """What is wrong with a command, or nothing. No tool does anything but parse."""
    name, *arguments = command.words
    if name == 'mmbackbones':
        name, *arguments = arguments
        if name.startswith('-'):
            return None if name == '--help' else 'no such option'
        if name not in COMMANDS:
            return f'no such command of {", ".join(COMMANDS)}'
        return _fault_of_arguments(COMMANDS[name][0], arguments, command.whole, parsers)
    if name == 'pytest':
        arguments = [word for word in arguments if word.startswith('tests')]
    elif not list(ROOT.glob(name)):
        return 'no such tool'
    missing = [word for word in arguments if word.startswith(('configs/', 'tests/')) and not _exists(word)]
    if missing:
        return f'{missing[0]} does not exist'
    if name in OPTIONS_OF_SCRIPTS:
        unknown = [word for word in arguments if word.startswith('--') and word not in OPTIONS_OF_SCRIPTS[name]]
        return f'unknown option {unknown[0]}' if unknown else None
    if name in PARSERS_OF_SCRIPTS and arguments:
        name, own = PARSERS_OF_SCRIPTS[name]
        del arguments[own]
    if name.endswith('.py') or name.startswith('mmbackbones.'):
        return _fault_of_arguments(name, arguments, command.whole, parsers)
    return None


def _exists(path: str) -> bool:
    return bool(PLACEHOLDER.search(path) or list(ROOT.glob(path)))


def _fault_of_arguments(tool: str, arguments: list[str], whole: bool, parsers) -> str | None:
    parsers.setattr(sys, 'argv', [tool, *arguments])
    try:
        if tool.endswith('.py'):
            runpy.run_path(str(ROOT / tool), run_name='__main__')
        else:
            module, _, function = tool.partition(':')
            getattr(importlib.import_module(module), function or 'main')(arguments)
    except Parsed:
        return None
    except ValueError as error:
        return None if not whole and 'required' in str(error) else str(error)
    except SystemExit as ended:
        return None if ended.code in (0, None) else f'exit status {ended.code}'
    return 'it ran'


@pytest.mark.parametrize('page', PAGES)
def test_every_command_is_one_of_the_tools(page, parsers):
    wrong = [f'{command}: {reason}' for command in commands(page) if (reason := fault(command, parsers))]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('tools/no_such_tool.py', 'no such tool'),
        ('tools/make_shapes.py data/own --train 8', 'unrecognized arguments: --train 8'),
        ('tools/test.py configs/no_such_config.py CHECKPOINT', 'configs/no_such_config.py does not exist'),
        ('mmbackbones fly', 'no such command'),
        ('tools/run_tests.sh --quick', 'unknown option --quick'),
        ('pytest tests/no_such_test.py', 'tests/no_such_test.py does not exist'),
        ('tools/test.py configs/suites/quickstart.yaml', 'required: checkpoint'),
    ],
)
def test_a_wrong_command_is_found(line, reason, parsers):
    assert reason in fault(Command('page', shlex.split(line)), parsers)


def test_every_block_says_whether_it_runs():
    unmarked = [str(block) for page in PAGES for block in blocks(page, 'bash') if not block.mark]
    assert not unmarked, f'expected <!-- run --> or <!-- not run: REASON --> above {", ".join(unmarked)}'


RUN = sorted({block.page for page in PAGES for block in blocks(page, 'bash') if block.mark == 'run'})


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN)
def test_the_marked_blocks_run(page, tmp_path, monkeypatch):
    """Those of one page after each other; a tool in this process, which has imported torch already."""
    monkeypatch.chdir(scratch(tmp_path))
    for block in blocks(page):
        if block.mark and block.mark.startswith('file: '):
            (tmp_path / block.mark.removeprefix('file: ')).write_text(block.text)
        elif block.mark == 'run':
            for line in lines_of(block.text):
                words = shlex.split(line)
                if words[0] == 'python' and words[1].startswith('tools/'):
                    monkeypatch.setattr(sys, 'argv', words[1:])
                    try:
                        runpy.run_path(words[1], run_name='__main__')
                    except SystemExit as ended:
                        assert ended.code in (0, None), f'{block}: {line}: exit status {ended.code}'
                else:
                    done = subprocess.run(['bash', '-c', line], capture_output=True, text=True)
                    assert done.returncode == 0, f'{block}: {line}: {done.stderr}'
