"""Python in README and docs: code runs, configs build a model. Without a network, no weights are fetched."""

import inspect
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmbackbones
from mmbackbones.engine.config import load_config
from mmbackbones.registry import MODELS
from tests.conftest import ROOT
from tests.docs.pages import PAGES, Block, blocks, scratch

PYTHON = [block for page in PAGES for block in blocks(page, 'python')]
CONFIGS = [block for block in PYTHON if '_base_ =' in block.text]
CODE = [block for block in PYTHON if block not in CONFIGS]


@pytest.mark.parametrize('block', CODE, ids=str)
def test_code_runs(block, tmp_path, monkeypatch):
    """``pretrained=True`` needs a network; that it is an argument is tested, and the rest runs without it."""
    monkeypatch.chdir(tmp_path)
    if 'pretrained=True' in block.text:
        assert 'pretrained' in inspect.signature(mmbackbones.create_backbone).parameters
    exec(compile(block.text.replace('pretrained=True', 'pretrained=False'), str(block), 'exec'), {})


@pytest.mark.parametrize('block', CONFIGS, ids=str)
def test_a_config_builds_a_model(block, tmp_path):
    cfg = _config(block, tmp_path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__module__.startswith('mmbackbones.')
    for of, channels in ((model, _inputs(model)), (model.backbone, model.backbone.out_channels)):
        assert list(channels) == list(model.backbone.out_channels), of


def _inputs(model) -> list[int]:
    """Channels that the neck, or the head, expects."""
    if not model.with_neck:
        return list(model.decode_head.in_channels)
    return list(getattr(model.neck, 'in_channels', model.backbone.out_channels))


def _config(block: Block, folder: Path) -> Config:
    """The config in the folder that its mark names: the project's, or a copy of a framework's own configs."""
    mark, _, name = (block.mark or '').partition(': ')
    if mark == 'beside':
        package, _, place = name.partition('/')
        shutil.copytree(Path(find_spec(package).origin).parent / '.mim' / 'configs', folder / 'configs')
        path = folder / 'configs' / place / 'mine.py'
    else:
        path = scratch(folder) / (name or 'mine.py')
    path.write_text(block.text)
    return load_config(path) if mark == 'file' else Config.fromfile(path)


def test_there_is_code_of_each_kind():
    assert {'README.md', 'docs/use_a_backbone.md', 'docs/own_data.md'} <= {block.page for block in CONFIGS}
    assert {'README.md', 'docs/use_a_backbone.md', 'docs/scan.md'} <= {block.page for block in CODE}


def test_the_readme_is_short():
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert len(lines) <= 100
    found = [
        command.split('  #')[0].strip() for block in blocks('README.md', 'bash') for command in block.text.splitlines()
    ]
    assert {'bash tools/quickstart.sh', 'bash tools/run_tests.sh'} <= {*found}
