"""The page itself, with content that provokes it."""

import csv

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from mmbackbones.analysis.report.page import Figure, Picture, Section, Table, write_page
from mmbackbones.errors import InputError
from tests.browser import faults_of


@pytest.fixture
def sections(tmp_path) -> list[Section]:
    canvas, axes = plt.subplots()
    axes.plot([1, 2, 3])
    plt.close(canvas)
    Image.new('RGB', (1600, 900), 'red').save(tmp_path / 'wide.png')
    header = [f'a long column name {i}' for i in range(12)]
    wide = Table('wide', 'Wider than a phone', header, [[0.123456] * 12, [None] * 12])
    return [
        Section('The question', ['Why <b> & not?', wide]),
        Section('Figures', [Figure('curve', 'A curve', 'A line that rises from one to three', canvas)]),
        Section('Pictures', [Picture(tmp_path / 'wide.png', 'A red picture of nothing')] * 2),
        Section('Nothing to say'),
    ]


def test_page_stands_in_a_browser(sections, tmp_path):
    page = write_page(tmp_path / 'out', 'A page', 'Its lead.', sections, 'made by a test')
    assert faults_of(page) == []
    assert 'Nothing to say' not in page.read_text()


def test_faults_are_found(sections, tmp_path):
    page = write_page(tmp_path / 'out', 'A page', 'Its lead.', sections, 'made by a test')
    html = page.read_text().replace('<h2 id="figures"', '<h4 id="figures"')
    html = html.replace('alt="A red picture of nothing"', 'alt=""').replace('overflow-x: auto', '')
    html = html.replace('<footer>', '<footer><img src="missing.png" alt="an image that is missing">')
    html = html.replace('{ th, td { overflow-wrap: anywhere; }', '{ th, td { white-space: nowrap; }')
    page.write_text(html.replace('outline: 3px', 'outline: none; margin: 3px'))
    faults = ' | '.join(faults_of(page))
    for fault in (
        'console: ',
        'h4 follows h2',
        'telling alternative',
        'wide on a phone',
        'columns are cut off at 1280 px: Wider than a phone',
        'missing.png',
        'does not load',
        'focus is not visible',
    ):
        assert fault in faults


def test_figures_and_data_lie_beside_the_page(sections, tmp_path):
    folder = write_page(tmp_path / 'out', 'A page', 'Its lead.', sections, 'made by a test').parent
    assert sorted(path.name for path in (folder / 'figures').iterdir()) == ['curve.png', 'curve.svg']
    rows = list(csv.reader((folder / 'data' / 'wide.csv').open()))
    assert len(rows) == 3 and rows[1] == ['0.123456'] * 12 and rows[2] == [''] * 12


def test_columns_for_the_file_alone_and_empty_ones_are_not_on_the_page(tmp_path):
    table = Table('t', 'A table', ['network', 'hash', 'empty', 'score'], [['a', 'f00', None, 1.0]] * 2, ['hash'])
    page = write_page(tmp_path / 'out', 'A page', '', [Section('One', [table])], '')
    text = page.read_text()
    assert 'network</th>' in text and 'score</th>' in text and 'hash' not in text and 'empty' not in text
    assert (page.parent / 'data' / 't.csv').read_text().startswith('network,hash,empty,score\na,f00,,1.0\n')


def test_a_report_replaces_a_report_and_nothing_else(sections, tmp_path):
    out = tmp_path / 'out'
    write_page(out, 'One', '', sections, '')
    assert 'Two' in write_page(out, 'Two', '', sections, '').read_text()
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'thesis.txt').write_text('precious')
    with pytest.raises(InputError, match='something else than a report'):
        write_page(other, 'Three', '', sections, '')
    assert (other / 'thesis.txt').read_text() == 'precious'
