"""The state of an unfinished training on the long-range task, in a file that is whole or absent."""

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbackbones.checkpoints.atomic import cannot_write, checksum_file, require_whole, write_with_checksum
from mmbackbones.errors import InputError


@dataclass(frozen=True)
class StateFile:
    """Where a training keeps its state, and after how many steps each time.

    Attributes:
        path (Path): the file; its SHA-256 is beside it.
        every (int): steps between two writes.

    Raises:
        InputError: fewer steps than 1.
    """

    path: Path
    every: int

    def __post_init__(self):
        if self.every < 1:
            raise InputError(f'long-range task: a state every {self.every} steps, expected 1 or more')

    def due(self, step: int, steps: int) -> bool:
        """Whether the state is written after this many steps of so many. A run that is shorter writes none."""
        return step % self.every == 0 or step == steps > self.every

    def write(self, state: dict) -> None:
        """Replace the file.

        Raises:
            InputError: it cannot be written.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            write_with_checksum(self.path, buffer.getvalue())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def read(self, settings: dict) -> dict | None:
        """The state in the file; None if there is no file.

        Args:
            settings: those of the run, which must be those of the state.

        Raises:
            InputError: the file is damaged or belongs to another run.
        """
        if not self.path.exists():
            return None
        require_whole(self.path, str(self.path))
        state = torch.load(self.path, map_location='cpu', weights_only=True)
        if state['settings'] != settings:
            changed = [
                key for key in {**settings, **state['settings']} if settings.get(key) != state['settings'].get(key)
            ]
            raise InputError(f'{self.path}: the state of another run, which differs in {", ".join(changed)}')
        return state

    def remove(self) -> None:
        """Remove the file and its checksum."""
        self.path.unlink(missing_ok=True)
        checksum_file(self.path).unlink(missing_ok=True)
