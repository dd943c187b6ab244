"""The files of a new family, with ``@name@``, ``@dashed@`` and ``@Class@`` in the place of its names."""

MODEL = '''"""@Class@: one sentence on what mixes the tokens.

Paper: TODO title, venue, address.
Authors' code and weights: TODO address, licence of the code, licence of the weights. What differs here, and why: TODO.
"""

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.@name@ import convert_@name@
from mmbackbones.layers.stems import conv_downsample, conv_stem
from mmbackbones.registry import MODELS


class TokenMixer(nn.Module):
    """THE MIXER: replace what is in this class. Tokens of a map [B, H, W, C] in, the same shape out, any H and W.

    The example is a depthwise 7x7 convolution between two linear layers.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.in_proj = nn.Linear(dim, dim)
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.act = nn.GELU()
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x).permute(0, 3, 1, 2)  # [B, H, W, C] -> [B, C, H, W]
        x = self.act(self.conv(x)).permute(0, 2, 3, 1)  # [B, C, H, W] -> [B, H, W, C]
        return self.out_proj(x)


class Block(nn.Module):
    """``x + mixer(LN(x))``, then ``x + MLP(LN(x))``, on maps [B, H, W, C]."""

    def __init__(self, dim: int, drop_path: float, mlp_ratio: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.mlp = TokenMixer(dim), Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class @Class@(StagedBackbone):
    """@Class@ for detection and segmentation.

    Key of ``arch`` besides ``dims`` and ``depths``: ``mlp_ratio`` (4).
    """

    archs = {'tiny': dict(dims=64, depths=(2, 2, 6, 2))}
    arch_defaults = dict(mlp_ratio=4.0)
    norm_eps = 1e-6
    convert_state_dict = staticmethod(convert_@name@)

    def make_stem(self, dim: int) -> nn.Module:
        return conv_stem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> Block:
        return Block(dim, drop_path, self.arch.mlp_ratio)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return conv_downsample(dim, next_dim)
'''

ADAPTER = '''"""@Class@: the authors' names."""

from torch import Tensor

from mmbackbones.checkpoints.layout import rename

# Pairs of pattern and replacement for re.sub, such as (r'^levels\\.', 'layers.').
RENAMES: tuple[tuple[str, str], ...] = ()


def convert_@name@(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are."""
    return rename(state_dict, RENAMES)
'''

_CONFIG = """_base_ = [
    '../_base_/models/{model}.py',
    '../_base_/datasets/{data}.py',
    '../_base_/schedules/{schedule}.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.@Class@',
        arch='tiny',
        drop_path_rate=0.1,
        # No published weights file is known: set checkpoint to a file, or init_cfg=None for random weights.
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=None)),
"""
DETECTOR = (
    _CONFIG.format(model='mask-rcnn_fpn', data='coco_instance', schedule='amp-1x_coco')
    + '    neck=dict(in_channels=[64, 128, 256, 512]))\n'
)
SEGMENTOR = (
    _CONFIG.format(model='upernet', data='ade20k_512x512', schedule='amp-160k_ade20k')
    + '    decode_head=dict(in_channels=[64, 128, 256, 512]),\n    auxiliary_head=dict(in_channels=256))\n'
)

PAGE = """# @Class@

> TODO title of the paper. TODO venue. TODO address

TODO: what mixes the tokens, in one sentence; the address of the authors' code; the licences of code and weights.

Recipe: `common`. TODO: whether the authors publish a recipe for dense tasks, and where drop path comes from.
"""

TEST = '''"""@Class@ against the authors' network, tensor by tensor."""

import pytest

from mmbackbones.backbones import @Class@
from mmbackbones.zoo.models import model_row
from tests.backbones.staged_cases import compare, load_case
from tests.conftest import GOLDEN, SHARED

CASE = '@name@_small'


def test_golden():
    """Recorded activations of the authors' code, see tests/golden/README.md. Without weights there are none."""
    name = f'{CASE}.safetensors'
    if not (GOLDEN / f'{name}.xz').exists() and not (SHARED / 'golden' / name).exists():
        assert not model_row('@name@_tiny')['weights'], f'the zoo names weights, but no {name} shows that they fit'
        pytest.skip(f'no golden case {name}: the zoo names no weights of this family')
    case = load_case(CASE)
    compare(@Class@(arch=dict(dims=case.options['dims'], depths=case.options['depths'])), case)
'''

# Path -> text; names in paths are filled in, too.
FILES = {
    'mmbackbones/backbones/@name@.py': MODEL,
    'mmbackbones/checkpoints/adapters/@name@.py': ADAPTER,
    'configs/@name@/mask-rcnn_@dashed@-tiny_fpn_8xb2-amp-1x_coco.py': DETECTOR,
    'configs/@name@/@dashed@-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py': SEGMENTOR,
    'configs/@name@/README.md': PAGE,
    'tests/backbones/test_@name@.py': TEST,
}
# Table -> the cells of its new row; other cells are empty.
ROWS = {
    'mmbackbones/zoo/models.csv': {
        'name': '@name@_tiny',
        'class': '@Class@',
        'arch': 'tiny',
        'token_mixer': 'conv',
        'weights_source': 'TODO who states the address of the weights, or why there is none',
        'code_license': 'TODO licence of the code',
        'detection_drop_path': '0.1',
        'detection_source': 'TODO source of the rate',
        'segmentation_drop_path': '0.1',
        'segmentation_source': 'TODO source of the rate',
    },
    'mmbackbones/zoo/miniatures.csv': {
        'name': '@name@_mini',
        'class': '@Class@',
        'arch': "{'dims': (16, 32, 48, 64), 'depths': (1, 1, 2, 1)}",
    },
    'mmbackbones/zoo/published/configs.csv': {
        'network': '@dashed@-tiny',
        'task': '*',
        'recipe': '*',
        'remark': 'TODO where it is published, or: not in the published tables',
    },
}
PACKAGE = 'mmbackbones/backbones/__init__.py'
REGISTRY_TEST = 'tests/backbones/test_registry.py'
REGISTRY_ROW = "    '@Class@': (dict(type='@Class@', arch=STAGED), {}),\n"
