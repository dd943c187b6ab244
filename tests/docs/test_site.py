"""The site of docs/ and of the pages of configs/: it builds without a warning, and asks no other host for anything."""

import html.parser
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from mmbackbones import __version__
from mmbackbones.analysis.pages import site as site_hooks
from tests.conftest import ROOT


class Requests(html.parser.HTMLParser):
    """Addresses that a browser fetches when it opens the page."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ('script', 'img', 'iframe'):
            self.found.append(attributes.get('src') or '')
        elif tag == 'link' and attributes.get('rel') in ('stylesheet', 'preconnect', 'icon', 'preload'):
            self.found.append(attributes.get('href') or '')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The built site; a warning is an error, as in ``mkdocs build``."""
    folder = tmp_path_factory.mktemp('site')
    config = load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(folder))
    assert config.strict
    counter = logging.getLogger('mkdocs')
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    counter.addHandler(handler)
    config.plugins.on_startup(command='build', dirty=False)
    try:
        build(config)
    finally:
        counter.removeHandler(handler)
        config.plugins.on_shutdown()
    assert not warnings
    return folder


def test_every_page_is_there(site):
    pages = {path.stem for path in (ROOT / 'docs').glob('*.md')}
    assert pages == {path.stem for path in site.glob('*.html')} - {'404'}
    families = {path.parent.name for path in (ROOT / 'configs').glob('*/README.md')}
    assert families == {path.stem for path in (site / 'configs').glob('*.html')}


def test_opening_a_page_asks_no_other_host(site):
    for path in site.rglob('*.html'):
        requests = Requests()
        requests.feed(path.read_text())
        assert requests.found
        assert not [address for address in requests.found if '//' in address], path


def test_pages_of_configs_link_within_the_site(site):
    page = (site / 'configs' / 'vmamba.html').read_text()
    assert 'VMamba' in page and '.md"' not in page and '../../docs' not in page
    assert 'href="configs/controlled.html"' in (site / 'controlled.html').read_text()
    assert 'doc-heading' in (site / 'reference.html').read_text()


def test_forms_and_citation_are_what_their_readers_accept():
    kinds = {'markdown', 'input', 'textarea', 'dropdown', 'checkboxes'}
    for path in Path(ROOT, '.github', 'ISSUE_TEMPLATE').glob('*.yml'):
        form = yaml.safe_load(path.read_text())
        if path.name == 'config.yml':
            assert set(form) <= {'blank_issues_enabled', 'contact_links'}
            continue
        assert form['name'] and form['description']
        ids = [element['id'] for element in form['body'] if element['type'] != 'markdown']
        assert len(ids) == len(set(ids)) and {element['type'] for element in form['body']} <= kinds
        for element in form['body']:
            assert element['attributes'].get('label') or element['type'] == 'markdown'
            assert element['type'] != 'dropdown' or len(set(element['attributes']['options'])) > 1
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    assert citation['version'] == __version__ and citation['license'] == 'Apache-2.0'


def test_a_page_without_a_place_gets_one(tmp_path):
    (tmp_path / 'docs').mkdir()
    for name, text in (('index', '# Home'), ('new', '# A new page')):
        (tmp_path / 'docs' / f'{name}.md').write_text(f'{text}\n')
    (tmp_path / 'configs' / 'vim').mkdir(parents=True)
    (tmp_path / 'configs' / 'vim' / 'README.md').write_text('# Vim\n')
    config = SimpleNamespace(
        docs_dir=str(tmp_path / 'docs'),
        config_file_path=str(tmp_path / 'mkdocs.yml'),
        nav=[{'Home': 'index.md'}, {site_hooks.SECTION: []}],
    )
    assert site_hooks.on_config(config).nav[1:] == [
        {site_hooks.SECTION: [{'Vim': 'configs/vim.md'}]},
        {site_hooks.OTHERS: [{'A new page': 'new.md'}]},
    ]


@pytest.mark.parametrize(
    ('link', 'shown'),
    [
        ('[a](scan.md#measured)', '[a](scan.md#measured)'),
        ('[a](../configs/vim/README.md)', '[a](configs/vim.md)'),
        ('[`a`](../mmbackbones/errors.py)', '`a`'),
        ('[a](https://arxiv.org/abs/2405.07992)', '[a](https://arxiv.org/abs/2405.07992)'),
        ('[a](no_such_page.md)', '[a](no_such_page.md)'),  # the strict build names it
        ('![a](figures/cost_vim-deit.svg)', '![a](figures/cost_vim-deit.svg)'),
        ('```\n[a](../mmbackbones/errors.py)\n```', '```\n[a](../mmbackbones/errors.py)\n```'),
    ],
)
def test_links_hold_in_the_site(link, shown):
    file = SimpleNamespace(abs_src_path=str(ROOT / 'docs' / 'compare.md'), src_uri='compare.md')
    config = SimpleNamespace(docs_dir=str(ROOT / 'docs'), config_file_path=str(ROOT / 'mkdocs.yml'))
    assert site_hooks.on_page_markdown(link, SimpleNamespace(file=file), config, None) == shown
