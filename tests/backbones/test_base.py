"""What the base class does for every family: options that are handed on, and recomputation."""

import inspect
from typing import TypedDict

import pytest
import torch
from torch import nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import Backbone
from mmbackbones.backbones.base.checkpointing import run_checkpointed


class Parent(Backbone):
    def __init__(self, *, depth: int = 2, width: int = 3, **run):
        self.size = depth, width
        super().__init__(**run)


class ChildOptions(TypedDict, total=False):
    arch: dict
    depth: int
    drop_path_rate: float


class Child(Parent):
    def __init__(self, name='child', *, norm_cfg='none', **run: Unpack[ChildOptions]):
        self.name = name
        super().__init__(width=7, norm_cfg=None, **run)


class Grandchild(Child):
    pass


def test_signature_holds_what_is_handed_on():
    """Own arguments and those of the bases, with the defaults that count, without what a class sets itself."""
    base = list(inspect.signature(Backbone).parameters)
    assert list(inspect.signature(Parent).parameters) == [*base, 'depth', 'width']
    for cls in (Child, Grandchild):
        parameters = inspect.signature(cls).parameters
        assert set(parameters) == {'name', 'norm_cfg', 'arch', 'depth', 'drop_path_rate'}
        assert parameters['norm_cfg'].default == 'none' and parameters['depth'].default == 2
        assert cls('x', depth=5).size == (5, 7) and cls().name == 'child'


@pytest.mark.parametrize('options', [dict(width=1), dict(out_indices=(0,)), dict(depht=1)], ids=str)
def test_an_unknown_keyword_is_refused_before_anything_is_built(options):
    (name,) = options
    with pytest.raises(TypeError) as caught:
        Grandchild(**options)
    known = ', '.join(inspect.signature(Grandchild).parameters)
    assert str(caught.value) == (f"Grandchild.__init__() got an unexpected keyword argument '{name}'; known: {known}")


@pytest.mark.parametrize('norm', [nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=None)], ids=['momentum', 'average'])
def test_recomputation_moves_the_statistics_of_any_batch_norm_once(norm):
    x = torch.randn(5, 3, requires_grad=True)
    block = nn.Sequential(nn.Linear(3, 3), norm)
    run_checkpointed(block, x).square().sum().backward()
    once = norm.running_mean.clone(), norm.running_var.clone()
    norm.reset_running_stats()
    block(x)
    torch.testing.assert_close(once, (norm.running_mean, norm.running_var))
