"""Generated parts of a page: written, checked, and faults in their marks named."""

import re

import pytest

from mmbackbones.analysis.complexity.controlled import ArmCost, write_costs
from mmbackbones.analysis.pages import write
from mmbackbones.analysis.pages.parts import PARTS
from mmbackbones.errors import InputError
from mmbackbones.zoo.models import model_names
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
        (PAGE.format('shout'), r'docs/page\.md: .*generated: shout.*: expected one of answer, '),
        (PAGE.format('say').replace('<!-- end -->', ''), r'docs/page\.md: .*generated: say.*: expected <!-- end -->'),
        (PAGE.format('complexity too much'), r'docs/page\.md: .*: TypeError'),
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


def test_a_short_table_names_models_of_the_zoo():
    lines = PARTS['results'](ROOT, 'vim-tiny', 'vmamba-tiny-s1l8').splitlines()
    assert lines[2].startswith('| `vim_tiny` | SSM | 27.2 M / 207 G | - |')
    assert '| 47.3 / 42.7 |' in lines[3] and len(lines) == 6
    page = (ROOT / 'README.md').read_text()
    shown = re.findall(r'^\| `(\w+)` \|', page, re.MULTILINE)
    assert len(shown) == 8 and set(shown) <= set(model_names())


def test_the_answer_follows_from_the_tables(tmp_path):
    """Made-up tables: one backbone linear in the tokens, one quadratic, and two mixers with known accuracies."""
    head = 'config,size,tokens,attention,median_ms,peak_mb,device,versions,date,commit\n'
    rows = [
        f'mask-rcnn_{name},{size},{size},{kind},{size**power},{size},CPU,"torch 1, python 3",2026-01-01,abc\n'
        for size in (10, 20, 40)
        for name, kind, power in (
            ('vim-tiny_x', '', 1),
            ('deit-tiny_x', 'fused', 2),
            ('deit-tiny_x', 'materialised', 3),
        )
    ]
    (tmp_path / 'benchmarks').mkdir()
    (tmp_path / 'benchmarks' / 'speed_vim-deit.csv').write_text(head + ''.join(rows))
    head = 'task,mixer,seed,shuffled,first,last,total,correct,low,high,cue_side,distractors,device,torch,date,commit\n'
    rows = [
        f'row,{mixer},{seed},False,{first},{first + 3},100,{correct},0,1,left,0,CPU,1,2026-01-01,abc\n'
        for mixer, correct in (('ss2d', 90), ('dw7', 30))
        for seed in (0, 1)
        for first in (9, 13, 17)
    ]
    (tmp_path / 'benchmarks' / 'long_range_row.csv').write_text(head + ''.join(rows))
    text = PARTS['answer'](tmp_path)
    assert text.startswith(
        '* **Published.** At equal ImageNet accuracy, published SSM (state-space model) networks differ'
    )
    assert "takes 10.0 times Vim-tiny's time at 10 px (10 tokens), and 40.0 times its time and 1.0 times its" in text
    assert 'cues are 13 to 20 tokens away' in text and 'answer 90.0 % (90 to 90, 2 seeds)' in text
    assert 'has 4,000 tokens of 16 px, 1.74 times' in text and text.count('* **') == 5
    assert PARTS['answer'](tmp_path, 'length').startswith('The quadratic part of attention')
    growth = PARTS['answer'](tmp_path, 'growth')
    assert "power of 1.00 (0.00) and DeiT-tiny's of 2.00 (0.00) with sdpa attention, 3.00 (0.00)" in growth
    assert '| 40 | 40 | 40 ms, 40 MB | x40.0, x1.0 | x1600.0, x1.0 |' in PARTS['cost'](tmp_path)


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


def test_networks_are_shown_in_multiples_of_the_first_of_their_size(tmp_path):
    head = 'config,size,tokens,median_ms,peak_mb,note,device,precision,versions,clock,date,commit\n'
    vim, mambaout = 'mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco', 'mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco'
    about = 'a CPU,fp32,torch 2,CPU time,2026-11-28,abc'
    lines = [f'{mambaout},64,256,2000,100,,', f'{vim},64,16,500,25,,', f'{mambaout},128,1024,,400,,']
    (tmp_path / 'benchmarks').mkdir()
    path = tmp_path / 'benchmarks/speed.csv'
    path.write_text(head + ''.join(f'{line}{about}\n' for line in lines))
    shown = PARTS['speed-networks'](tmp_path, 'speed.csv')
    assert '| 64 | `vim_tiny` | 16 | 0.50 | 0.25 | 25 MB | 0.25 |\n' in shown
    assert '| 128 | `mambaout_tiny` | 1024 |  |  | 400 MB | 1.00 |\n' in shown
    path.write_text(f'{head}{vim},64,,,,out of memory,{about}\n')
    assert '| 64 | `vim_tiny` |  |  |  |  |  | out of memory |\n' in PARTS['speed-networks'](tmp_path, 'speed.csv')
