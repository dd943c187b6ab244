"""The causal control."""

import pytest
import torch

from mmbackbones.backbones import Mamba, Vim
from mmbackbones.errors import InputError

TINY = dict(embed_dims=24, depth=2, patch_size=8)


def test_causal_in_raster_order():
    """A patch reaches itself and those that follow, none before."""
    model = Mamba(arch=TINY, out_indices=(1,)).eval()
    x = torch.randn(1, 3, 40, 48)
    changed = x.clone()
    changed[..., 16:24, 24:32] += 1  # row 2, column 3 of 5 x 6
    with torch.no_grad():
        differs = (model(x)[0] != model(changed)[0]).any(1).flatten()
    assert not differs[: 2 * 6 + 3].any() and differs[2 * 6 + 3 :].all()


@pytest.mark.parametrize('arch', Mamba.archs)
def test_same_width_and_depth_as_vim(arch):
    """What Vim has in excess is the second direction."""
    causal, both = ({name: p.shape for name, p in cls(arch=arch).named_parameters()} for cls in (Mamba, Vim))
    assert causal.items() <= both.items()
    assert {name.split('.')[3] for name in both.keys() - causal.keys()} == {
        'A_b_log',
        'D_b',
        'conv1d_b',
        'x_proj_b',
        'dt_proj_b',
    }


def test_bad_options():
    with pytest.raises(InputError, match="Mamba: unknown arch 'base'; known: tiny, small, or a dict"):
        Mamba(arch='base')
    with pytest.raises(TypeError, match=r"Mamba.__init__\(\) got an unexpected keyword argument 'with_cls_token'"):
        Mamba(arch=TINY, with_cls_token=True)
