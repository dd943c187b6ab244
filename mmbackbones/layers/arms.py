"""The arms of the controlled experiment: one name for each choice of token mixers.

An arm's name stands wherever a network takes ``mixers``. ``pointwise-ssm`` is the control of ``ssm``: as many
parameters, and no mixing across tokens. ``pointwise-macs-block-state`` has as many multiply-accumulates. ``hybrid`` and
``bissm-moe`` take turns; in the controls of the latter, a dense network with as many parameters or multiply-accumulates
stands in for the experts. ``-last2`` mixes in stages 3 and 4, ``-all`` in all.
"""

from collections.abc import Sequence

Mixers = str | Sequence[str | Sequence[str]]

# Branches with a control of their own. Causal attention has the parameters, and so the control, of full attention.
_WITH_CONTROL = (
    'ssm',
    'bissm',
    'ss2d',
    'ss1d-state-fused',
    'attn',
    'linear-attn',
    'ssd-noncausal',
    'ttt',
    's4nd',
    'block-state',
)
# Names that both networks know and that do not follow from those of their branches.
_FOR_BOTH: dict[str, str | tuple[str, ...]] = {
    'pointwise-macs-block-state': 'pointwise-macs:block-state',
    'bissm-moe': ('bissm', 'moe'),
    'bissm-pointwise-moe': ('bissm', 'pointwise:moe'),
    'bissm-pointwise-macs-moe': ('bissm', 'pointwise-macs:moe'),
}
_STAGED = {
    **{name: name for name in (*_WITH_CONTROL, 'causal-attn')},
    **{f'pointwise-{name}': f'pointwise:{name}' for name in _WITH_CONTROL},
    'identity': 'identity',
    'hybrid': ('ss2d', 'attn'),
    **_FOR_BOTH,
}
_PLACES = {
    'last2': lambda mixer: ('none', 'none', mixer, mixer),
    'all': lambda mixer: mixer if isinstance(mixer, str) else (mixer,) * 4,
}
# Network -> arm -> mixers: one for all blocks, or one entry for each of the four stages.
ARMS: dict[str, dict[str, Mixers]] = {
    'GatedMixerNet': {
        'none': 'none',
        **{f'{name}-{place}': put(mixer) for name, mixer in _STAGED.items() for place, put in _PLACES.items()},
    },
    'IsotropicMixerNet': {
        **{name: name for name in (*_WITH_CONTROL, 'causal-attn', 'ssm-reversed') if name != 'ss2d'},
        **{f'pointwise-{name}': f'pointwise:{name}' for name in _WITH_CONTROL if name != 'ss2d'},
        **_FOR_BOTH,
    },
}
# The archs of GatedMixerNet whose widths can be adjusted to equal MambaOut's cost.
MATCHED = ('femto', 'kobe', 'tiny', 'small', 'base')
MATCHED_SIDE = 224  # px, at which MACs are made equal


def spell_out(network: str, mixers: Mixers, depths: Sequence[int] | None = None) -> Mixers:
    """The mixers that an arm's name stands for; what is no such name is returned as it is.

    Args:
        network: class of the network.
        mixers: an arm's name, or mixers.
        depths: blocks of each stage, if known. A stage with fewer blocks than mixers that take turns has the first.
    """
    arm = ARMS.get(network, {}).get(mixers) if isinstance(mixers, str) else None
    if arm is None:
        return mixers
    if isinstance(arm, str) or depths is None:
        return arm
    return tuple(_cut(stage, depth) for stage, depth in zip(arm, depths))


def _cut(stage: str | Sequence[str], depth: int) -> str | Sequence[str]:
    if isinstance(stage, str) or len(stage) <= depth:
        return stage
    return stage[0] if depth == 1 else stage[:depth]


def arm_name(network: str, mixers: Mixers, depths: Sequence[int] | None = None) -> str:
    """The arm's name of these mixers; other mixers spelled out, stage by stage: ``none,none,ss2d,ss2d+attn``."""
    mixers = _as_tuples(mixers)
    for name in ARMS[network]:
        if spell_out(network, name, depths) == mixers:
            return name
    entries = [mixers] if isinstance(mixers, str) else mixers
    text = ','.join(entry if isinstance(entry, str) else '+'.join(entry) for entry in entries)
    return text.replace(':', '-')


def _as_tuples(mixers: Mixers) -> Mixers:
    return mixers if isinstance(mixers, str) else tuple(x if isinstance(x, str) else tuple(x) for x in mixers)
