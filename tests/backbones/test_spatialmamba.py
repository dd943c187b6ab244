"""Spatial-Mamba against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmbackbones.backbones import SpatialMamba
from mmbackbones.backbones.spatialmamba import StateFusedSSM
from mmbackbones.checkpoints.adapters.spatialmamba import convert_spatialmamba
from mmbackbones.checkpoints.layout import convert_whole_model
from mmbackbones.errors import InputError
from mmbackbones.layers.mlla_frame import MLLABlock
from mmbackbones.layers.state_fusion import DILATIONS, StateFusion
from tests.backbones.staged_cases import build_whole, check_published_keys, compare, load_case

CASES = ['square', 'nonsquare', 'odd_size', 'eps']
SMALL = dict(dims=8, depths=(1, 1, 2, 1))


def build_like(options):
    return SpatialMamba(arch=dict(dims=options['dims'], depths=options['depths']))


@pytest.mark.parametrize('name', CASES)
def test_golden(name, backend):
    case = load_case(f'spatialmamba_{name}')
    compare(build_like(case.options), case)
