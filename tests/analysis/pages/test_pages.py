"""Generated parts of a page: written, checked, and faults in their marks named."""

import pytest

from mmbackbones.analysis.complexity.controlled import ArmCost, write_costs
from mmbackbones.analysis.pages import write
from mmbackbones.analysis.pages.parts import PARTS
from mmbackbones.errors import InputError
from tests.conftest import ROOT

PAGE = 'Before.\n<!-- generated: {}, by tools/make_tables.py -->\n\nold\n\n<!-- end -->\nAfter.\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one page and one part, ``say``."""
    monkeypatch.setitem(PARTS, 'say', lambda root, *words: f'{root.name} {" ".join(words)}\n')
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'page.md').write_text(PAGE.format('say a b'))
    return tmp_path


def test_check_shows_what_differs_and_writes_nothing(project, capsys):
    page = project / 'docs' / 'page.md'
    with pytest.raises(SystemExit) as ended:
        write.main(['--check'], project)
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert printed.startswith('docs/page.md: differs from its tables; run tools/make_tables.py\n')
    assert f'-old\n+{project.name} a b' in printed and page.read_text() == PAGE.format('say a b')

    write.main([], project)
    assert capsys.readouterr().out == 'docs/page.md: written\n'
    assert page.read_text() == PAGE.format('say a b').replace('old', f'{project.name} a b')
    write.main(['--check'], project)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    ('text', 'fault'),
    [
        (PAGE.format('shout'), r'docs/page\.md: .*generated: shout.*: expected one of results, '),
        (PAGE.format('say').replace('<!-- end -->', ''), r'docs/page\.md: .*generated: say.*: expected <!-- end -->'),
        (PAGE.format('results too much'), r'docs/page\.md: .*: TypeError'),
        (PAGE.format('miniatures'), r'docs/page\.md: .*: .*miniature_training\.csv: no readable CSV file'),
    ],
    ids=['unknown part', 'no end', 'wrong arguments', 'no table'],
)
def test_faulty_marks_are_named(project, text, fault):
    (project / 'docs' / 'page.md').write_text(text)
    with pytest.raises(InputError, match=fault):
        write.main([], project)


def test_the_committed_pages_use_every_part():
    marks = [
        found[1].split()[0]
        for place in write.PLACES
        for path in ROOT.glob(place)
        for line in path.read_text().split('\n')
        if (found := write.BEGIN.match(line))
    ]
    assert set(marks) == set(PARTS)


def test_results_show_scores_of_our_very_network_alone():
    rows = {line.split(' | ')[0]: line.split(' | ') for line in PARTS['results'](ROOT).splitlines()}
    assert rows['| MambaOut-T'][2:5] == ['43.1 M / 262 G', '45.1 / 41.0', '']
    assert rows['| Vim-Ti'][3] == '' and rows['| Vim-Ti'][6] == ''  # published with another head
    assert rows['| MambaVision-T'][6] == '46.0 / -'
    assert len(rows) > 35


def test_costs_of_arms_stand_beside_their_distance_from_mambaout(tmp_path):
    (tmp_path / 'benchmarks').mkdir()
    costs = [
        ArmCost('none', 'nowhere', 20_000_000, 4_000_000_000, 4_000_000_000),
        ArmCost('ss2d', 'everywhere', 22_000_000, 6_000_000_000, 7_000_000_000),
        ArmCost('attn', 'everywhere', missing='no width is that narrow'),
    ]
    for name in ('one.csv', 'two.csv'):
        write_costs(tmp_path / 'benchmarks' / name, costs)
    lines = PARTS['controlled'](tmp_path, 'one.csv').splitlines()
    assert '| ss2d | everywhere | 22.00 | +10.0% | 6.00 | +50.0% |' in lines
    assert '| attn | everywhere | not possible |  |  |  |' in lines
    side_by_side = PARTS['controlled-equal'](tmp_path, 'one.csv', 'two.csv')
    assert '| ss2d | everywhere | 22.00 (+10.0%) | 6.00 (+50.0%) | 22.00 (+10.0%) | 6.00 (+50.0%) |' in side_by_side
    assert side_by_side.rstrip().endswith('`one.csv`, `two.csv`.')
