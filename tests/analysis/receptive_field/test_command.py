"""tools/analysis/receptive_field.py: figure, arrays and table, and its bad input."""

import runpy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image

from mmbackbones.analysis.receptive_field.networks import build, pairs
from mmbackbones.errors import InputError
from tests.conftest import ROOT
from tests.miniatures import SEGMENTOR, miniature

CONFIG = str(ROOT / SEGMENTOR)
CONFIG_NAME = 'upernet_1xb8-500_shapes-ade20k-128x128'
TOOL = ROOT / 'tools' / 'analysis' / 'receptive_field.py'
main = runpy.run_path(str(TOOL))['main']


def test_two_networks_side_by_side(tmp_path, capsys):
    net = MODELS.build(miniature('vmamba_mini', 'segmentation').model.backbone)
    weights = {f'backbone.{key}': value for key, value in net.state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'vmamba.pth')
    figure = tmp_path / 'new' / 'fields.png'
    main(
        f'{CONFIG} {CONFIG} {tmp_path}/vmamba.pth --backbone mamba_mini vmamba_mini --at 20 12 --stage 1 --size 32 48 '
        f'--noise 2 -o {figure}'.split()
    )
    said = capsys.readouterr().out
    assert 'x=20, y=12 in 48x32 px, mean over 2 images of noise' in said
    assert '_mamba_mini: random weights' in said and f'_vmamba_mini: {tmp_path}/vmamba.pth' in said
    with np.load(figure.with_suffix('.npz')) as arrays:
        assert arrays['at'].tolist() == [20, 12]
        causal, all_around = (
            arrays[f'upernet_1xb8-500_shapes-ade20k-128x128_{name}/1'] for name in ('mamba_mini', 'vmamba_mini')
        )
    assert causal.shape == (32, 48)
    assert not causal[16:].any() and (all_around > 0).all()  # the token is in the second row of four
    assert Image.open(figure).size[0] > 300


def test_given_images_are_normalized_as_the_config_says(tmp_path):
    Image.new('RGB', (40, 30), (200, 10, 60)).save(tmp_path / 'a.png')
    main(f'{CONFIG} --image {tmp_path}/a.png --size 32 32 --stage 0 -o {tmp_path}/a.svg'.split())
    assert '<svg' in (tmp_path / 'a.svg').read_text()
    network = build(CONFIG, None)
    assert list(network.mean) == list(miniature('mambaout_mini', 'segmentation').model.data_preprocessor.mean)


def test_checkpoints_follow_their_configs():
    assert pairs(['a.py', 'b', 'b.pth', 'c.py', 'hf://x/y/z']) == [
        ('a.py', None),
        ('b', 'b.pth'),
        ('c.py', 'hf://x/y/z'),
    ]
    for wrong in (['a.pth'], ['a.py', 'a.pth', 'b.safetensors#sha256=00']):
        with pytest.raises(InputError, match=': a checkpoint; expected its config before it'):
            pairs(wrong)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('-o x.gif', r'--out x\.gif: expected a name that ends in \.png, \.svg, \.pdf'),
        ('-o OUT.png --at 500 3', 'outside the image of 224x224 px'),
        ('-o OUT.png --stage 4 --size 32 32', 'stage 4: the backbone returns 4 maps; expected 0 to 3'),
        ('-o OUT.png --size 0 32', '--size 0 32: expected 1 or more'),
        ('-o OUT.png --noise 0', '--noise 0: expected 1 or more'),
        ('-o OUT.png --device cuda', '--device cuda: not there; 0 CUDA devices are visible'),
        ('-o OUT.png --device gpu', '--device gpu: expected cpu, cuda or cuda:N'),
        ('-o OUT.png --device cuda:', '--device cuda:: expected cpu, cuda or cuda:N'),
        ('-o OUT.png --backbone a b', '--backbone: 2 names for 1 configs'),
        ('-o OUT.png --image nowhere.jpg', r'nowhere\.jpg: no such file'),
        ('-o OUT.png nowhere.pth', 'checkpoint nowhere.pth: no such file'),
    ],
)
def test_bad_input(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(InputError, match=message):
        main([CONFIG, *options.replace('OUT', f'{tmp_path}/out').split()])
    assert not list(tmp_path.iterdir())
