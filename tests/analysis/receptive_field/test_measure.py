"""The effective receptive field: networks whose field is known beforehand."""

import numpy as np
import pytest
import torch
from torch import nn

from mmbackbones.analysis.receptive_field import measure, token_at
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import backbone_config

PATCH = 8  # px, of the plain miniatures


def images(height: int = 64, width: int = 80, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def miniature(name: str, task: str = 'segmentation', **options) -> nn.Module:
    torch.manual_seed(0)
    backbone = MODELS.build({**backbone_config(name, task), **options})
    backbone.init_weights()
    return backbone


def box(values: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row, first and last column with a value above 0."""
    rows, columns = np.nonzero(values)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_a_3x3_convolution_sees_nine_pixels_by_its_weights():
    layer = nn.Conv2d(3, 1, 3, padding=1)
    (field,) = measure(layer, images(16, 20, count=2), at=(11, 6))
    assert field.token == (6, 11) and field.map_size == (16, 20)
    assert box(field.values) == (5, 7, 10, 12) and (field.values > 0).sum() == 9
    torch.testing.assert_close(torch.from_numpy(field.values[5:8, 10:13]), layer.weight[0].detach().abs().sum(0))
    (corner,) = measure(layer, images(16, 20), at=(0, 0))
    assert box(corner.values) == (0, 1, 0, 1)


@pytest.mark.parametrize('layers', [2, 3])
def test_stacked_convolutions_see_a_ring_more_each(layers):
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(layers)))
    (field,) = measure(net, images(24, 24), at=(12, 10))
    assert box(field.values) == (10 - layers, 10 + layers, 12 - layers, 12 + layers)


def test_shares():
    (field,) = measure(nn.Conv2d(3, 1, 3, padding=1), images(10, 10), at=(5, 5))
    assert field.seen == 0.09 and field.area(1 - 1e-9) == 0.09 and 0 < field.area(0.5) < 0.09
    assert field._replace(values=np.zeros((4, 4), np.float32)).area(0.5) == 0


def test_channels_do_not_cancel_behind_a_layer_norm():
    """Its channels have the sum 0, whatever the image; a field of the plain sum would be rounding noise."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.LayerNorm(16)

        def forward(self, x):
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    torch.manual_seed(0)
    net, x = Normed(), images(8, 8).requires_grad_(True)
    (plain,) = torch.autograd.grad(net(x)[0, :, 4, 4].sum(), x)
    (field,) = measure(net, images(8, 8), at=(4, 4))
    assert field.values.max() > 1e4 * plain.abs().max()


@pytest.mark.parametrize(('name', 'order'), [('mamba_mini', 'causal'), ('vim_mini', 'both')])
def test_a_causal_scan_sees_nothing_behind(name, order):
    """mamba_mini scans row by row in one direction only: no later token counts. Vim scans in both directions."""
    fields = measure(miniature(name), images(), at=(35, 29))
    assert fields[-1].token == (3, 4) and fields[-1].map_size == (8, 10)
    tokens = fields[-1].values.reshape(8, PATCH, 10, PATCH).sum((1, 3)).ravel()
    here = 3 * 10 + 4
    assert (tokens[: here + 1] > 0).all()
    assert (tokens[here + 1 :] == 0).all() if order == 'causal' else (tokens[here + 1 :] > 0).all()


def test_a_scan_in_four_directions_sees_everything():
    first, *_ = measure(miniature('vmamba_mini'), images(48, 64), at=(10, 20), stages=(0, 3))
    assert first.seen == 1 and first.map_size == (12, 16) and first.token == (5, 2)


def test_convolutions_of_mambaout_see_a_window():
    """Stage 0 of the miniature: a stem of two 3x3 convolutions of stride 2, and one 7x7 block."""
    (field,) = measure(miniature('mambaout_mini'), images(128, 128), at=(64, 64), stages=(0,))
    top, bottom, left, right = box(field.values)
    assert bottom - top + 1 == right - left + 1 == 7 + 6 * 4
    assert 0 < field.seen < 0.1


def test_signs_make_the_result_repeatable_and_the_average_runs_over_the_images():
    net = miniature('mambaout_mini')
    both = images(64, 64, count=2)
    fields = measure(net, both, at=(30, 30))
    again = measure(net, both, at=(30, 30), stages=(3, 1))
    assert [field.stage for field in fields] == [0, 1, 2, 3] and [field.stage for field in again] == [3, 1]
    repeated = measure(net, both, at=(30, 30))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(fields, repeated))
    conv = nn.Conv2d(3, 1, 3, padding=1)  # one channel: its sign does not matter
    apart = [measure(nn.Sequential(conv, nn.Tanh()), image[None], at=(30, 30))[0].values for image in both]
    (mean,) = measure(nn.Sequential(conv, nn.Tanh()), both, at=(30, 30))
    np.testing.assert_allclose(mean.values, (apart[0] + apart[1]) / 2, rtol=1e-5, atol=1e-9)


def test_the_backbone_stays_as_it_was():
    net = miniature('vmamba_mini', frozen_stages=1).train()
    before = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    modes = [module.training for module in net.modules()]
    measure(net, images(32, 32), at=(1, 1), stages=(0,))
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == before
    assert [module.training for module in net.modules()] == modes and len(set(before.values())) == 2
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize('at', [(80, 10), (10, 64), (-1, 10), (10, -0.5), (float('nan'), 3)])
def test_a_point_outside_is_refused(at):
    with pytest.raises(InputError, match=r'outside the image of 80x64 px; expected x from 0 to 79 and y from 0 to 63'):
        measure(nn.Conv2d(3, 1, 3), images(), at)


def test_other_bad_input():
    conv = nn.Conv2d(3, 1, 3, padding=1)
    with pytest.raises(InputError, match='stage 1: the backbone returns 1 maps'):
        measure(conv, images(), (3, 3), stages=(1,))
    for wrong in (torch.zeros(0, 3, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(InputError, match=r'expected a float batch \[N, 3, H, W\]'):
            measure(conv, wrong, (3, 3))


def test_tokens_of_points():
    assert token_at((127, 4), (33, 33), (130, 130), stride=4) == (1, 31)
    assert token_at((129, 129), (32, 32), (130, 130), stride=4) == (31, 31)
    assert token_at((15, 8), (2, 2), (16, 16)) == (1, 1)
