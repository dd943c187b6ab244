"""Code in a checkpoint runs only where the user vouches for that very file, and nothing of it is left afterwards."""

import pytest
import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from mmbackbones.checkpoints.atomic import sha256_of
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.trust import main
from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from tests.checkpoints.crafted import Call

pytestmark = pytest.mark.promise('trust')


def trust(capsys, *arguments):
    code = 0
    try:
        run_command(main, [str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_module_is_refused_then_trusted(tmp_path, capsys):
    source, target, witness = tmp_path / 'a.pth', tmp_path / 'b.pth', tmp_path / 'witness'
    model = nn.Linear(2, 2)
    torch.save(dict(model=model, notes=Call(eval, f'open({str(witness)!r}, "w")'), epoch=3), source)
    with pytest.raises(InputError, match=r'if you trust its author, tools/trust_checkpoint\.py'):
        load_checkpoint(str(source))

    code, output = trust(capsys, source, target, '--sha256', '0' * 64)
    assert code == 2 and f'its SHA-256 is {sha256_of(source)}, not the trusted 000' in output
    assert not witness.exists() and not target.exists()

    code, output = trust(capsys, source, target, '--sha256', sha256_of(source))
    assert code == 0 and 'left out: notes' in output and witness.exists()
    assert get_unsafe_globals_in_checkpoint(target) == []
    checkpoint = load_checkpoint(str(target)).content
    assert checkpoint['epoch'] == 3 and torch.equal(checkpoint['model']['weight'], model.weight)

    code, output = trust(capsys, source, target, '--sha256', sha256_of(source))
    assert code == 2 and 'exists; nothing was overwritten' in output


def test_torchscript(tmp_path, capsys):
    model = nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 2)), tmp_path / 'a.pt')
    assert trust(capsys, tmp_path / 'a.pt', tmp_path / 'b.pth', '--sha256', sha256_of(tmp_path / 'a.pt'))[0] == 0
    assert torch.equal(load_checkpoint(str(tmp_path / 'b.pth')).content['weight'], model.weight)


@pytest.mark.parametrize('content', [None, b'no checkpoint'])
def test_unreadable(tmp_path, capsys, content):
    source = tmp_path / 'a.pth'
    digest = '0' * 64
    if content:
        source.write_bytes(content)
        digest = sha256_of(source)
    code, output = trust(capsys, source, tmp_path / 'b.pth', '--sha256', digest)
    assert code == 2 and output.startswith(f'error: {source}: ') and output.count('\n') == 1
