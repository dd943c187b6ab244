"""Resizing of position tables."""

import pytest
import torch
from safetensors.torch import load_file

from mmbackbones.errors import InputError
from mmbackbones.layers.position import resize_position
from tests.conftest import golden


@pytest.mark.parametrize('name, side, new_side', [('4to7.extra0', 4, 7), ('4to7.extra1', 4, 7), ('7to3.extra1', 7, 3)])
def test_golden_resize(name, side, new_side):
    tensors = load_file(golden('vim_posembed_resize.safetensors'))
    row = 0 if name.endswith('extra1') else None
    resized = resize_position(tensors[f'in.{name}'], (side, side), (new_side, new_side), row, row)
    torch.testing.assert_close(resized, tensors[f'out.{name}'], atol=1e-6, rtol=0)


def test_middle_row_moves_to_the_new_middle():
    table = torch.randn(1, 4 * 5 + 1, 3)
    patches = torch.cat((table[:, :10], table[:, 11:]), dim=1)
    resized = resize_position(table, (4, 5), (3, 7), 10, 10)
    assert torch.equal(resized[:, 10], table[:, 10])
    expected = resize_position(patches, (4, 5), (3, 7))
    assert torch.equal(torch.cat((resized[:, :10], resized[:, 11:]), dim=1), expected)
    assert torch.equal(resize_position(table, (4, 5), (3, 7), 10), expected)
    assert torch.equal(resize_position(table, (4, 5), (4, 5), 10), patches)


def test_grid_is_height_by_width():
    ramp = torch.arange(8.0).repeat(4, 1).reshape(1, 32, 1)  # grows along the width of a 4x8 grid
    resized = resize_position(ramp, (4, 8), (8, 4)).reshape(8, 4)
    assert torch.allclose(resized, resized[:1].expand(8, -1)) and (resized.diff(dim=1) > 1.5).all()


def test_same_grid_is_the_same_tensor():
    table = torch.randn(1, 13, 4)
    assert resize_position(table, (3, 4), (3, 4), 6, 6) is table


def test_float16_table_is_resized_in_float32():
    table = torch.randn(1, 12, 4).half()
    resized = resize_position(table, (3, 4), (5, 6))
    assert resized.dtype == torch.float16
    assert torch.equal(resized, resize_position(table.float(), (3, 4), (5, 6)).half())


def test_gradient_reaches_every_row():
    table = torch.randn(1, 13, 4, requires_grad=True)
    resize_position(table, (3, 4), (2, 9), 6, 9).square().sum().backward()
    assert (table.grad.abs().sum(-1) > 0).all()


def test_errors():
    with pytest.raises(InputError, match='13 rows, expected 12 for a 3x4 grid without class token'):
        resize_position(torch.zeros(1, 13, 4), (3, 4), (5, 5))
    with pytest.raises(InputError, match='12 rows, expected 13 for a 3x4 grid with class token'):
        resize_position(torch.zeros(1, 12, 4), (3, 4), (5, 5), 6)
    with pytest.raises(InputError, match='no row for the class token'):
        resize_position(torch.zeros(1, 12, 4), (3, 4), (5, 5), None, 12)
