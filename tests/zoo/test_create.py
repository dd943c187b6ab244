"""A backbone by its name: what is built, what is said of it, and what the messages are."""

import hashlib
import logging

import pytest
import torch

import mmbackbones
from mmbackbones import backbone_info, create_backbone, list_backbones
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.sources import cache_path
from mmbackbones.errors import InputError
from mmbackbones.zoo import weights
from mmbackbones.zoo.create import shape_only
from mmbackbones.zoo.models import backbone_config, is_non_commercial, miniature_names, model_names
from mmbackbones.zoo.rows import named_rows

MINI = 'vmamba_mini'
NAME = 'vmamba_tiny_s1l8'


@pytest.fixture
def row(monkeypatch):
    """A function that replaces cells of :data:`NAME` for the test."""

    def change(**cells):
        monkeypatch.setitem(named_rows('models.csv'), NAME, {**named_rows('models.csv')[NAME], **cells})

    return change


@pytest.fixture
def saved(tmp_path):
    """Weights of a miniature, as a file."""
    torch.manual_seed(1)
    path = tmp_path / 'mini.pth'
    torch.save(create_backbone(MINI).state_dict(), path)
    return path


def test_the_maps_are_those_that_are_announced():
    backbone = create_backbone(MINI, out_indices=(1, 3))
    info = backbone_info(NAME, out_indices=(1, 3))
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, 32, 8, 12), (2, 64, 2, 3)]
    assert info.name == NAME and info.out_channels == (192, 768) and info.out_strides == (8, 32)


def test_what_is_known_of_a_model():
    info = backbone_info(NAME)
    assert info.top1 == 82.6 and info.token_mixer == 'conv+ssm' and info.type == 'mmbackbones.VMamba'
    assert info.published['detection'].row.metrics['AP_box'] == 47.3
    assert info.weights.endswith('vssm1_tiny_0230s_ckpt_epoch_264.pth') and info.sha256 is None
    assert (info.code_license, info.weights_license) == ('MIT', 'MIT (of the repository)')
    assert info.drop_path['detection'][0] == 0.2
    assert 29e6 < info.parameters < 31e6
    nvidia = backbone_info('mambavision_tiny')
    assert nvidia.non_commercial and nvidia.weights is None and not info.non_commercial


def test_the_task_sets_the_common_recipe():
    plain = backbone_info('vim_tiny', task='detection')
    assert (plain.out_channels, plain.out_strides) == ((192,), (16,))
    backbone = shape_only('vim_tiny', task='segmentation')
    assert backbone.out_indices == (5, 11, 17, 23) and backbone.drop_path_rate == 0.1
    assert create_backbone('deit_mini', task='segmentation').out_indices == (0, 1, 2, 3)


@pytest.mark.parametrize('name', {name.partition('_')[0]: name for name in reversed(model_names())}.values())
def test_every_family_is_built_without_a_task(name):
    """With a task: tests/configs/test_common_recipe.py."""
    info = backbone_info(name)
    assert len(info.out_channels) == len(info.out_strides) > 0
    assert info.parameters > 1e6


def test_lists():
    assert list_backbones() == model_names()
    assert list_backbones('VIM_*') == [name for name in model_names() if name.startswith('vim_')]
    assert NAME in list_backbones(license='mit') and 'vim_tiny' not in list_backbones(license='MIT')
    assert set(list_backbones(license='*-NC-*')) == {name for name in model_names() if name.startswith('mambavision')}
    assert 'vim_base' not in list_backbones(pretrained=True)
    dense = list_backbones(task='detection')
    assert NAME in dense and 'mambaout_kobe' not in dense and 'mambaout_kobe' in list_backbones(task='classification')


def test_weights_from_a_file(saved):
    backbone = create_backbone(MINI, pretrained=str(saved), with_cp=True)
    assert backbone.with_cp
    for key, value in torch.load(saved).items():
        assert torch.equal(backbone.state_dict()[key], value)


def test_the_weights_of_the_zoo_are_checked(row, saved):
    """A file that was put where the download would go, with the right and with another checksum."""
    address = 'https://example.org/mini.pth'
    row(arch="{'dims': (16, 32, 48, 64), 'depths': (1, 1, 2, 1)}", weights=address)
    path = cache_path(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(saved.read_bytes())
        row(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        built = create_backbone(NAME, pretrained=True)
        assert torch.equal(built.state_dict()['outnorm0.weight'], torch.load(saved)['outnorm0.weight'])
        config = backbone_config(NAME, 'detection')
        assert config['init_cfg'] == dict(type='mmbackbones.Pretrained', checkpoint=f'zoo://{NAME}')
        row(sha256='0' * 64)
        with pytest.raises(InputError, match='SHA-256'):
            load_checkpoint(f'zoo://{NAME}')
    finally:
        path.unlink(missing_ok=True)


def test_non_commercial_weights_say_so_before_they_are_fetched(row, saved, caplog, monkeypatch):
    row(weights=str(saved), weights_license='CC-BY-NC-SA-4.0')
    weights._warn_once.cache_clear()
    said = []
    monkeypatch.setattr(weights, 'print_log', lambda text, logger, level: said.append((text, level)))
    load_checkpoint(f'zoo://{NAME}')
    load_checkpoint(f'zoo://{NAME}')
    assert said == [(f'zoo://{NAME}: these weights are for non-commercial use only, CC-BY-NC-SA-4.0', logging.WARNING)]
    assert [is_non_commercial(name) for name in ('NVIDIA-Source-Code-License-NC', 'MIT (NC)', 'Apache-2.0', '')] == [
        True, False, False, False
    ]  # fmt: skip


def test_without_a_network_the_place_of_the_file_is_named(row, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', no_network)
    row(weights='https://example.org/there.pth')
    with pytest.raises(InputError) as caught:
        create_backbone(NAME, pretrained=True)
    text = str(caught.value)
    assert 'https://example.org/there.pth' in text and str(cache_path('https://example.org/there.pth')) in text
    assert text.count('\n') == 0


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: create_backbone('vmamba_tiny_s1l9'), f'vmamba_tiny_s1l9: no such backbone; nearest: {NAME}'),
        (lambda: backbone_info(MINI), f'{MINI}: no such backbone; nearest: '),
        (
            lambda: create_backbone(NAME, drop_path=0.1),
            'option drop_path; nearest: drop_path_rate; known: arch',
        ),
        (lambda: backbone_info(NAME, wiht_cp=1).parameters, 'unknown option wiht_cp; nearest: with_cp'),
        (lambda: create_backbone(MINI, out_indices=(4,)), r'out_indices=\(4,\), expected ascending stages out of 0..3'),
        (lambda: create_backbone(MINI, task='sorting'), "task 'sorting': expected one of detection, segmentation"),
        (lambda: create_backbone(MINI, pretrained=True), f'{MINI}: a miniature has no pretrained weights'),
        (lambda: create_backbone('mambavision_tiny', pretrained=True), 'zoo://mambavision_tiny: no weights are known'),
        (lambda: load_checkpoint('zoo://vim_tiney'), 'vim_tiney: no such backbone; nearest: vim_tiny'),
        (lambda: list_backbones(task='sorting'), "task 'sorting': expected one of detection"),
        (
            lambda: list_backbones(license='Apache2'),
            "'Apache2': no weights have it; nearest: Apache-2.0; known",
        ),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_name(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value)


def test_miniatures_are_built_by_name_too():
    assert all(create_backbone(name).out_channels for name in miniature_names()[:2])


def test_public_names():
    assert {'create_backbone', 'list_backbones', 'backbone_info', 'selective_scan', '__version__'} <= set(
        dir(mmbackbones)
    ) & set(mmbackbones.__all__)
    for name in mmbackbones.__all__:
        assert getattr(mmbackbones, name) is not None
    with pytest.raises(AttributeError, match="module 'mmbackbones' has no attribute 'nothing'"):
        _ = mmbackbones.nothing
