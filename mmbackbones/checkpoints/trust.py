"""Extract the plain data of a checkpoint that contains code. Only here such code runs, if the user trusts the file."""

import argparse
import io
from pathlib import Path

from mmbackbones.errors import InputError


def convert_trusted(source: str | Path, target: str | Path, sha256: str) -> list[str]:
    """Unpickle ``source``, which runs the code in it, and write its plain data to ``target``.

    Modules become their state dicts.

    Args:
        source: file of torch.save or torch.jit.save.
        target: file to write; its checksum is written beside it.
        sha256: 64 hex digits that ``source`` must have.

    Returns:
        list[str]: dotted places of the objects left out because they are not plain data.

    Raises:
        InputError: ``source`` has another SHA-256 or cannot be read, or ``target`` exists.
    """
    import torch

    from mmbackbones.checkpoints.atomic import cannot_write, sha256_of, write_with_checksum
    from mmbackbones.checkpoints.plain_data import to_plain

    source, target = Path(source), Path(target)
    if not source.is_file():
        raise InputError(f'{source}: no such file')
    if target.exists():
        raise InputError(f'{target}: exists; nothing was overwritten')
    digest = sha256_of(source)
    if digest != sha256.lower():
        raise InputError(f'{source}: its SHA-256 is {digest}, not the trusted {sha256.lower()}; nothing in it was run')
    try:
        content = torch.load(source, map_location='cpu', weights_only=False)
    # The code of the file may raise whatever it likes.
    except Exception as error:
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise InputError(f'{source}: cannot be read: {reason}') from error
    plain, dropped = to_plain(_state_dicts(content))
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    try:
        write_with_checksum(target, buffer.getvalue())
    except OSError as error:
        raise cannot_write(target, error) from error
    return dropped


def _state_dicts(value: object) -> object:
    from torch import nn

    if isinstance(value, nn.Module):
        return value.state_dict()
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _state_dicts(item)
    return value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Run the code in a trusted checkpoint once; keep its plain data.')
    parser.add_argument('source')
    parser.add_argument('target')
    parser.add_argument('--sha256', required=True, metavar='HEX', help='SHA-256 of the file that you trust')
    args = parser.parse_args(argv)
    dropped = convert_trusted(args.source, args.target, args.sha256)
    print(f'{args.target}: written{"; left out: " + ", ".join(dropped) if dropped else ""}')
