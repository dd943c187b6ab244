"""Names that options take and that the layers check: of scan backends, and of kinds of attention.

Imports nothing, so that a command tells its options at once.
"""

BACKENDS = ('naive', 'chunk', 'cpu', 'triton', 'mamba_ssm')
# The names of earlier releases, accepted wherever a name is.
ALIASES = {'reference': 'naive', 'chunked': 'chunk', 'native': 'cpu', 'official': 'mamba_ssm'}

ATTENTION = ('sdpa', 'eager')
OLD_ATTENTION = {'fused': 'sdpa', 'materialised': 'eager'}  # names of version 0.1, still taken


def canonical_name(name: str) -> str:
    """Today's name of a backend, for one that an earlier release or a file written by it says."""
    return ALIASES.get(name, name)
