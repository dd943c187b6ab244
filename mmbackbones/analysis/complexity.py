"""Parameters and multiply-accumulates of a whole detector or segmentor, as the published tables count them.

mmengine's analyzer traces one forward pass and counts one fused multiply-add as one MAC. Parameters include the
auxiliary head, MACs do not: it does not run in a test. A detector runs with 1,000 proposals in the box head and 100 in
the mask head, mmdet's own convention.
"""

import logging
import math
from collections import Counter
from dataclasses import dataclass

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmbackbones.engine.outputs import task_of
from mmbackbones.errors import InputError

# Height and width at which the papers count; docs/recipes.md names the sources.
SHAPES = {'detection': (800, 1280), 'segmentation': (512, 2048)}


def _scan_macs(inputs: list, outputs: list) -> int:
    """9 B D L N + B D L: floating-point operations (state-spaces/mamba issue 110), added to MACs uncut.

    VMamba and those who compare with it count so; the two units are mixed, but their tables can be reproduced.
    """
    batch, dim, length = inputs[0].type().sizes()
    _, state = inputs[2].type().sizes()
    return batch * dim * length * (9 * state + 1)


def _attention_macs(inputs: list, outputs: list) -> int:
    """Both products of fused attention, which count the same as they do when written out."""
    *batch, queries, depth = inputs[0].type().sizes()
    keys, width = inputs[2].type().sizes()[-2:]
    return math.prod(batch) * queries * keys * (depth + width)


# Counts of operators that mmengine does not know: {operator: function of jit inputs and outputs}.
HANDLES = {
    'mmbackbones::selective_scan': _scan_macs,
    'aten::scaled_dot_product_attention': _attention_macs,
}
MODULES = ('backbone', 'neck', 'rpn_head', 'roi_head', 'decode_head', 'auxiliary_head')


@dataclass(frozen=True)
class Complexity:
    """Counts for one image.

    Attributes:
        shape (tuple[int, int]): height and width in pixels.
        params (dict[str, int]): parameters, by top-level module and in ``'total'``.
        macs (dict[str, int]): multiply-accumulates, likewise.
        uncounted (dict[str, int]): operators without a rule, with the number of their calls; element-wise ones mostly.
    """

    shape: tuple[int, int]
    params: dict[str, int]
    macs: dict[str, int]
    uncounted: dict[str, int]


class _TensorMode(nn.Module):
    """The model's plain forward pass, taking nothing but the image, as tracing demands."""

    def __init__(self, model: nn.Module, shape: tuple[int, int]):
        super().__init__()
        self.model = model
        self.shape = shape

    def forward(self, image: Tensor) -> object:
        if not hasattr(self.model, 'roi_head'):
            # EncoderDecoder calls its head's forward directly, which hides from the tracer whose operators these are.
            return self.model.decode_head(self.model.extract_feat(image))
        from mmdet.structures import DetDataSample
        shape = self.shape
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1, 1)))
        return self.model(image, [sample], mode='tensor')


def count_complexity(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Count a configured model. No weights are loaded and nothing is downloaded.

    Args:
        cfg: configuration of a detector or segmentor.
        shape: height and width in pixels; by default 800x1280 for detectors and 512x2048 for segmentors.

    Raises:
        InputError: a shape that is not positive.
    """
    shape = tuple(shape or SHAPES[task_of(cfg)])
    if min(shape) < 1:
        raise InputError(f'--shape {shape[0]} {shape[1]}: expected positive height and width in pixels')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    analyzer = FlopAnalyzer(_TensorMode(model, shape).eval(), (torch.randn(1, 3, *shape),))
    analyzer.set_op_handle(**HANDLES).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the tracer warns at every shape read in Python
    try:
        with torch.no_grad():
            macs = analyzer.by_module()
    finally:
        logging.disable(level)
    modules = [name for name in MODULES if hasattr(model, name)]
    return Complexity(
        shape=shape,
        params={'total': _parameters(model), **{name: _parameters(getattr(model, name)) for name in modules}},
        macs={'total': int(macs['']), **{name: int(macs[f'model.{name}']) for name in modules}},
        uncounted=dict(Counter(analyzer.unsupported_ops())))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
