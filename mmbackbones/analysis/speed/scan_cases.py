"""The cases and methods of the benchmark of the selective scan, by name. Imports nothing that takes seconds."""

from dataclasses import dataclass

from mmbackbones.choices import BACKENDS


@dataclass(frozen=True)
class ScanCase:
    """batch, dim D over all groups, length L, state N, groups; ``gate``: with z."""

    batch: int
    dim: int
    length: int
    state: int
    groups: int
    gate: bool

    @property
    def elements(self) -> int:
        return self.batch * self.dim * self.length


def vim(dim: int, size: int) -> ScanCase:
    return ScanCase(1, dim, (size // 16) ** 2 + 1, 16, 1, True)


def vmamba(stage: int) -> ScanCase:
    return ScanCase(1, 4 * 96 << stage, 64000 >> 2 * stage, 1, 4, False)


CASES = {f'n16-{length}': ScanCase(1, 384, length, 16, 1, True) for length in (196, 1024, 4096, 65536)}
CASES |= {f'n1-{length}': ScanCase(1, 768, length, 1, 4, False) for length in (1024, 4096)}
CASES |= {f'vim-{name}-{size}': vim(dim, size) for name, dim in dict(t=384, s=768).items() for size in (224, 512, 1248)}
CASES |= {f'vmamba-t-stage{stage + 1}': vmamba(stage) for stage in range(4)}

# The functions of others, by their names in ``scan_peers.py``.
PEERS = {
    'mamba_ssm loop': 'mamba_ssm_loop',
    'Hugging Face loop': 'hugging_face_loop',
    'mambapy': 'mambapy_scan',
    'mamba_ssm CUDA': 'mamba_ssm_cuda',
}
# The exponentials of the recurrence alone, from registers to registers: this core's bounds of a forward pass. The usual
# one, a polynomial, and the stricter one, with the table that the C++ kernel has.
BOUNDS = {'exp2 polynomial in registers': 'scan_exponentials_polynomial', 'table exp alone': 'scan_exponentials_table'}
METHODS = (*BACKENDS, *PEERS, *BOUNDS)
