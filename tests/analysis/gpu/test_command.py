"""The command check_gpu: the plan without a GPU, the page, the exit status."""

import importlib

import pytest
import torch

from mmbackbones.analysis.gpu import command_line
from mmbackbones.analysis.gpu.choices import PHASES
from mmbackbones.analysis.gpu.command_line import main
from mmbackbones.analysis.gpu.findings import FAILED, SKIPPED, Finding
from mmbackbones.analysis.gpu.page import MOST_DETAILS, page
from mmbackbones.engine.command import run_command


def status(*arguments) -> int:
    try:
        run_command(main, list(arguments))
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.fixture
def phases(monkeypatch):
    """The phases are stand-ins that find something in this process."""
    found = dict.fromkeys(PHASES, ())
    monkeypatch.setattr('mmbackbones.analysis.gpu.isolate.findings_of', lambda name, phase, settings: iter(found[name]))
    return found


def test_without_a_gpu_it_says_what_it_would_do(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert status('--phases', 'training', 'parity') == 1
    out = capsys.readouterr().out
    assert out.startswith('No CUDA device is visible, so nothing is checked.')
    assert [line for line in out.splitlines() if line.startswith('* ')] == [
        f'* **{name}** ({PHASES[name].duration:.0f} s at most). {PHASES[name].purpose}'
        for name in ('parity', 'training')
    ]
    assert status('--device', 'cuda') == 2
    assert 'error: --device cuda: not there; 0 CUDA devices are visible' in capsys.readouterr().err


def test_exit_status_and_page(phases, tmp_path, capsys):
    phases['parity'] = [Finding('scan', figures=dict(error=1.5e-6)), Finding('mixer', SKIPPED, note='not | here')]
    arguments = '--device', 'cpu', '--phases', 'parity', 'versions', '--out', str(tmp_path / 'page.md')
    assert status(*arguments) == 0
    text = (tmp_path / 'page.md').read_text()
    assert capsys.readouterr().out == text + '\n'
    assert text.startswith('# check_gpu: 1 ok, 0 FAILED, 1 skipped\n\n* date: ')
    assert text.index('## versions') < text.index('## parity')
    assert '| check | status | error | note |\n| --- | --- | --- | --- |\n| scan | ok | 1.5e-06 |  |\n' in text
    assert '| mixer | skipped |  | not \\| here |\n' in text
    phases['versions'] = [Finding('driver', FAILED, note='gone')]
    assert status(*arguments) == 1
    assert (tmp_path / 'page.md').read_text().startswith('# check_gpu: 1 ok, 1 FAILED, 1 skipped')


def test_an_interrupted_check_leaves_the_phases_before(phases, tmp_path, monkeypatch):
    def run(name, settings):
        if name == 'parity':
            raise KeyboardInterrupt
        return [Finding('driver')], 1.0

    monkeypatch.setattr(command_line, '_run', run)
    with pytest.raises(KeyboardInterrupt):
        main(['--device', 'cpu', '--out', str(tmp_path / 'page.md')])
    assert '| driver | ok |' in (tmp_path / 'page.md').read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--phases', 'speed'], 'invalid choice'),
        (['--size', '8'], '--size 8: expected 64 and more'),
        (['--config', 'no_such_config'], 'no_such_config: no such config file'),
        (['--config', 'quickstart/upernet_1xb8-500_shapes-ade20k-128x128'], 'trains no detector'),
        (['--out', '/'], '--out /: is a folder, expected a file'),
    ],
)
def test_bad_usage(arguments, message, capsys):
    assert status('--device', 'cpu', *arguments) == 2
    assert message in capsys.readouterr().err


def test_details_stand_at_the_end_and_are_cut_at_their_start():
    findings = dict(parity=[Finding('scan', FAILED, note='bad', details='x' * MOST_DETAILS + 'last line')])
    text = page({}, findings, dict(parity=3.2))
    assert '## parity (3 s)' in text
    details = text[text.index('<details><summary>scan</summary>') :]
    assert details.count('x') == MOST_DETAILS - len('last line') and 'last line\n```\n\n</details>' in details


def test_every_phase_is_a_function():
    for phase in PHASES.values():
        module, _, name = phase.function.partition(':')
        assert callable(getattr(importlib.import_module(module), name))
