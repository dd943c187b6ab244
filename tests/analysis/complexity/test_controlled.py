"""What the arms of the controlled experiment cost, and how the command says it."""

import pytest

from mmbackbones.analysis.complexity.controlled import arms, count_arms
from mmbackbones.errors import InputError
from mmbackbones.layers.arms import ARMS
from tools.analysis import controlled

SMALL = dict(depths=(2, 2, 2, 2), dims=(16, 24, 32, 48))
SHAPE = (64, 96)


def by_arm(names, equal=None):
    return {(cost.mixer, cost.place): cost for cost in count_arms(SMALL, SHAPE, equal, names)}


def test_every_arm_is_counted():
    assert sorted(arm for _, _, arm in arms()) == sorted(ARMS['GatedMixerNet'])


def test_costs():
    costs = by_arm(('ssm', 'attn', 'causal-attn', 'pointwise-ssm', 'pointwise-attn', 'identity'))
    none = costs['none', 'nowhere']
    for branch in ('ssm', 'attn'):
        for place in ('last two stages', 'everywhere'):
            mixed, control = costs[branch, place], costs[f'pointwise-{branch}', place]
            assert mixed.params == control.params > none.params and mixed.macs > control.macs > none.macs
    full, causal = costs['attn', 'everywhere'], costs['causal-attn', 'everywhere']
    assert (full.params, full.macs) == (causal.params, causal.macs)
    assert costs['identity', 'everywhere'].params == none.params - 2 * 50 * sum(SMALL['dims'])
    tokens = [SHAPE[0] * SHAPE[1] // stride**2 for stride in (4, 8, 16, 32)]
    elements = 2 * sum(dim * length for dim, length in zip(SMALL['dims'], tokens))
    scan = costs['ssm', 'everywhere']
    assert scan.macs_published - scan.macs == elements * 145 / 2
    assert none.macs_published == none.macs


def test_what_cannot_be_had_is_said():
    costs = by_arm(('attn', 'ssm'), 'macs')
    assert "cost more than the blocks can give up for equal='macs'" in costs['attn', 'everywhere'].missing
    assert costs['ssm', 'last two stages'].missing == ''


def test_command(capsys):
    controlled.main(['femto', '--shape', '64', '64', '--equal', 'macs', '--mixers', 'attn'])
    printed = capsys.readouterr().out
    assert 'GatedMixerNet femto, 64x64 px, widths adjusted to equal macs' in printed
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in printed.splitlines() if line.startswith('│')]
    assert [row[:2] for row in rows] == [['none', 'nowhere'], ['attn', 'last two stages'], ['attn', 'everywhere']]
    assert rows[0][2:4] == ['5.82', '+0.0%'] and rows[2][2] == 'not possible'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['huge'], "unknown arch 'huge'"),
        (['--shape', '0', '64'], r'--shape 0 64: expected 4 px or more'),
        (['base_plus_rw', '--equal', 'params'], "equal='params' is for arch femto"),
    ],
    ids=str,
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        controlled.main(arguments)
