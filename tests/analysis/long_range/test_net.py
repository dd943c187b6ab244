"""The receptive field of the net is that of its mixer."""

import pytest
import torch

from mmbackbones.analysis.long_range.choices import MIXERS
from mmbackbones.analysis.long_range.net import LongRangeNet, build_mixer, radius, receptive_field
from mmbackbones.errors import InputError


class TestReach:
    """The input's gradient tells which tokens a net reads: the net around the mixer must add none."""

    @pytest.mark.parametrize(('mixer', 'tokens'), [('identity', 0), ('pointwise:ss2d', 0), ('dw3', 4), ('dw7', 12)])
    def test_radius(self, mixer, tokens):
        reach = receptive_field(LongRangeNet(mixer), 32, (16, 16))
        assert radius(reach, (16, 16)) == tokens
        assert reach.sum() == (2 * tokens + 1) ** 2

    @pytest.mark.parametrize(
        'mixer', ['bissm', 'ss2d', 'attn', 'linear-attn', 'ssd-noncausal', 'ttt', 's4nd', 'block-state', 'hybrid']
    )
    def test_whole_image(self, mixer):
        assert receptive_field(LongRangeNet(mixer), 16, (5, 9)).all()

    @pytest.mark.parametrize(('mixer', 'causal'), [('ssm', True), ('causal-attn', True), ('ssm-reversed', False)])
    def test_one_half(self, mixer, causal):
        order = torch.arange(256).view(16, 16)
        here = order[5, 9]
        assert torch.equal(receptive_field(LongRangeNet(mixer), 16, (5, 9)), order <= here if causal else order >= here)

    def test_fused_states(self):
        """Five rows and columns more per block, and all before them in raster order."""
        order = torch.arange(32 * 32).view(32, 32)
        reach = receptive_field(LongRangeNet('ss1d-state-fused'), 32, (3, 5))
        assert torch.equal(reach, order <= order[3 + 4 * 5, 5 + 4 * 5])

    def test_position_code_adds_no_reach(self):
        assert radius(receptive_field(LongRangeNet('dw3', 'sincos'), 16, (8, 8)), (8, 8)) == 4

    def test_a_norm_over_the_image_would_leak(self):
        class ImageNorm(torch.nn.Module):
            def forward(self, x):
                return torch.nn.functional.layer_norm(x, x.shape[1:])

        net = LongRangeNet('identity')
        net.blocks[0].mixer_norm = ImageNorm()
        assert receptive_field(net, 16, (8, 8)).all()

    def test_hybrid_takes_turns(self):
        blocks = LongRangeNet('hybrid').blocks
        for number, mixer in enumerate(('ss2d', 'attn', 'ss2d', 'attn')):
            assert type(blocks[number].mixer.mixer) is type(LongRangeNet(mixer).blocks[0].mixer.mixer)
        with pytest.raises(InputError, match="mixer 'hybrid' unknown"):
            build_mixer('hybrid', 8)

    def test_positive_controls(self):
        assert receptive_field(LongRangeNet('image-max'), 16, (5, 9)).any(1).sum() > 1
        row = receptive_field(LongRangeNet('row-max'), 16, (5, 9))
        assert row[5].sum() > 8 and not row[:5].any() and not row[6:].any()

    def test_grid_that_is_not_square(self):
        reach = receptive_field(LongRangeNet('dw3'), (16, 24), (8, 20))
        assert torch.equal(reach.nonzero().amin(0), torch.tensor([4, 16]))
        assert reach.shape == (16, 24) and reach.sum() == 9 * 8  # cut by the border
        assert receptive_field(LongRangeNet('ss2d'), (24, 16), (3, 3)).all()

    def test_every_mixer_is_covered(self):
        causal = {'ssm', 'ssm-reversed', 'causal-attn', 'ss1d-state-fused'}
        whole = {'bissm', 'ss2d', 'attn', 'linear-attn', 'ssd-noncausal', 'ttt', 's4nd', 'block-state', 'hybrid'}
        alone = {'identity', 'dw3', 'dw7', 'row-max', 'image-max', *(name for name in MIXERS if 'pointwise:' in name)}
        assert alone | causal | whole == set(MIXERS)


def test_position_code_tells_places_apart():
    image = torch.zeros(1, 3, 64, 64)
    plain, coded = (LongRangeNet('identity', position)(image) for position in ('none', 'sincos'))
    assert (plain == plain[:, :1, :1]).all()
    assert len(coded.flatten(0, 2).unique(dim=0)) == 256
