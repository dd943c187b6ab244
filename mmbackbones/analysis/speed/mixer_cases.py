"""The cases and methods of the benchmark of token mixers, by name. Imports nothing that takes seconds."""

from dataclasses import dataclass

METHODS = ('triton', 'composed', 'copies', 'mamba_ssm')


@dataclass(frozen=True)
class MixerCase:
    """A mixer of ``dim`` channels on maps of a size: Vim's, with a class token, or VMamba's of a stage."""

    family: str
    dim: int
    size: tuple[int, int]


CASES = {f'vim-t-{size}': MixerCase('vim', 192, (size // 16, size // 16)) for size in (224, 512, 1248)}
CASES |= {f'vmamba-t-stage{i + 1}': MixerCase('vmamba', 96 << i, (200 >> i, 320 >> i)) for i in range(4)}
