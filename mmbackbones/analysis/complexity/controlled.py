"""Cost of each arm of the controlled experiment: parameters and multiply-accumulates of its backbone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbackbones.analysis.complexity.count import ONE_UNIT, PUBLISHED_RULE, SCAN_RULES, count_module
from mmbackbones.analysis.tables import write_csv
from mmbackbones.backbones.gated_mixer_net import GatedMixerNet
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import environment
from mmbackbones.layers.arms import ARMS
from mmbackbones.layers.meta_device import shapes_alone

COLUMNS = ('mixer', 'where', 'params', 'macs', 'macs_published')
PLACES = {'last2': 'last two stages', 'all': 'everywhere'}


@dataclass(frozen=True)
class ArmCost:
    """Counts of one backbone for one image; ``missing`` says why there are none.

    A scan has 9 N + 1 products and sums per element. ``macs`` counts them as half as many MACs, in the unit of
    everything else. ``macs_published`` adds them in full, like the published tables.
    """

    mixer: str
    place: str
    params: int = 0
    macs: int = 0
    macs_published: int = 0
    missing: str = ''


def arms(names: Sequence[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """Mixer, place and arm of the hierarchical arms with these mixers (None: all), MambaOut itself first."""
    yield 'none', 'nowhere', 'none'
    for ending, place in PLACES.items():
        for arm in ARMS['GatedMixerNet']:
            mixer, _, end = arm.rpartition('-')
            if end == ending and (names is None or mixer in names):
                yield mixer, place, arm


def count_arms(
    arch: str | dict, shape: tuple[int, int], equal: str | None = None, names: Sequence[str] | None = None
) -> Iterator[ArmCost]:
    """Count every arm's backbone without output norms. No values are computed.

    Args:
        arch (str | dict): ``arch`` of :class:`GatedMixerNet`.
        shape (tuple[int, int]): height and width in pixels.
        equal (str | None): see :class:`GatedMixerNet`.
        names (Sequence[str] | None): some of ``MIXERS`` of ``choices.py``; None: all. MambaOut itself is always
            counted.

    Raises:
        InputError: unknown ``arch`` or ``equal``, or an image below 4 px.
    """
    if min(shape) < 4:
        raise InputError(f'--shape {shape[0]} {shape[1]}: expected 4 px or more')
    for name, place, arm in arms(names):
        try:
            with shapes_alone():
                model = GatedMixerNet(arch=arch, mixers=arm, equal=equal, norm_cfg=None).eval()
        except InputError as error:
            if name == 'none':  # not the mixers' fault
                raise
            yield ArmCost(name, place, missing=str(error))
            continue
        count = count_module(model.to_empty(device='cpu'), torch.empty(1, 3, *shape, device='meta'))
        scans = {
            rule: sum(elements * SCAN_RULES[rule](state) for state, elements in count.scans.items())
            for rule in (PUBLISHED_RULE, ONE_UNIT)
        }
        macs = sum(count.macs['Global'].values())
        yield ArmCost(
            name,
            place,
            sum(p.numel() for p in model.parameters()),
            round(macs - scans[PUBLISHED_RULE] + scans[ONE_UNIT]),
            round(macs),
        )


def write_costs(path: str | Path, costs: Sequence[ArmCost]) -> None:
    """One line per arm by :data:`COLUMNS`, empty where there is no count, with date, commit and torch's version.

    Raises:
        InputError: the file cannot be written.
    """
    made = environment()
    about = dict(date=made['date'][:10], commit=made['commit'], torch=made['versions']['torch'])
    counts = [(None,) * 3 if cost.missing else (cost.params, cost.macs, cost.macs_published) for cost in costs]
    rows = [(cost.mixer, cost.place, *count) for cost, count in zip(costs, counts)]
    write_csv(path, COLUMNS, rows, conditions=about)
