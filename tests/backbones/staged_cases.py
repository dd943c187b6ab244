"""Golden cases of the staged backbones (VMamba, EfficientVMamba, LocalVMamba): one layout, one comparison."""

import importlib
import json
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mmbackbones.analysis.complexity.count import count_module
from mmbackbones.backbones.base import Backbone, StagedBackbone
from mmbackbones.checkpoints.layout import of_backbone
from mmbackbones.layers.meta_device import shapes_alone
from tests.conftest import ROOT, golden

TOLERANCE = dict(atol=5e-5, rtol=1e-4)


class Case(NamedTuple):
    """``options``: the authors' arguments; ``weights``: their classifier's, with the dense backbone's norms."""

    options: dict
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]


def load_case(name: str) -> Case:
    path = golden(f'{name}.safetensors')
    with safe_open(path, 'pt') as file:
        options = json.loads(file.metadata()['kwargs'])
    tensors = load_file(path)
    weights = {key.split('.', 1)[1]: x for key, x in tensors.items() if key.startswith('state_dict')}
    return Case(options, weights, tensors)


def classifier_of(case: Case) -> dict[str, Tensor]:
    """The weights of the authors' classifier, without the norms that only the dense backbone has."""
    whole = {key.removeprefix('state_dict.'): x for key, x in case.tensors.items() if key.startswith('state_dict.')}
    return {key: x for key, x in whole.items() if 'norm_layer' not in key}


def load_keys(name: str) -> dict:
    return json.loads(golden(f'keys_{name}.json').read_text())


def load_weights(model: Backbone, weights: dict[str, Tensor]) -> None:
    """Load a classifier; only what the backbone names may be missing or left over."""
    report = model.load_state_dict(model.convert_state_dict(of_backbone(weights)), strict=False)
    assert all(key.startswith(model.allowed_missing) for key in report.missing_keys), report.missing_keys
    assert all(key.startswith(model.allowed_unexpected) for key in report.unexpected_keys), report.unexpected_keys


def check_published_keys(family: type[StagedBackbone], arch: str, golden_keys: str, tables: tuple = ()) -> None:
    """Every key of the authors' classifier has its place and shape here or is of the head; no other is asked for.

    ``tables``: endings of keys whose constants we compute.
    """
    published = load_keys(golden_keys)
    with shapes_alone():
        model = family(arch=arch, norm_cfg=None)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    shapes = {key: value.shape for key, value in model.convert_state_dict(weights).items()}
    assert len(shapes) == len(weights) - sum(key.endswith(tables) for key in weights)
    own = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: shape for key, shape in shapes.items() if not key.startswith('classifier.')} == own
    head = sum(math.prod(shape) for key, shape in shapes.items() if key.startswith('classifier.'))
    assert sum(p.numel() for p in model.parameters()) + head == published['num_parameters']


@torch.no_grad()
def record(model: StagedBackbone, case: Case) -> dict[str, Tensor]:
    """Load a case's weights, run its image: stem, last block of each stage, downsamplings and normed maps, NCHW."""
    load_weights(model.eval(), case.weights)
    actual = {}

    def keep(key):
        return lambda module, inputs, output: actual.__setitem__(key, output.permute(0, 3, 1, 2))

    hooks = [model.patch_embed.register_forward_hook(keep('patch_embed'))]
    for i, stage in enumerate(model.layers):
        hooks.append(stage.blocks[-1].register_forward_hook(keep(f'stage.{i}')))
        if stage.downsample is not None:
            hooks.append(stage.downsample.register_forward_hook(keep(f'downsample.{i}')))
    outs = model(case.tensors['x'])
    for hook in hooks:
        hook.remove()
    return actual | {f'out.{i}': out for i, out in enumerate(outs)}


@torch.no_grad()
def compare(model: StagedBackbone, case: Case, prefix: str = '') -> None:
    """Every recorded tensor: stem, stages, downsamplings, normed maps, and the classifier put on top."""
    actual = record(model, case)
    w = model.convert_state_dict(dict(case.weights))
    last = actual[f'stage.{len(model.layers) - 1}'].permute(0, 2, 3, 1)
    last = F.layer_norm(last, last.shape[-1:], w['classifier.norm.weight'], w['classifier.norm.bias'], 1e-5)
    actual['logits'] = F.linear(last.mean((1, 2)), w['classifier.head.weight'], w['classifier.head.bias'])

    expected = {
        key: value
        for key, value in case.tensors.items()
        if key.startswith(prefix)
        and not key.startswith(('state_dict', 'x'))
        and (prefix or not key.startswith('true_inverse.'))
    }
    assert expected and (prefix or expected.keys() == actual.keys())
    for key, value in expected.items():
        found = actual[key.removeprefix(prefix)]
        torch.testing.assert_close(found, value, msg=lambda m, k=key: f'{k}: {m}', **TOLERANCE)


BASES = dict(det='mask-rcnn_fpn', seg='upernet')
HEADS_MACS = {  # GMACs around the backbone by its first width: FPN and heads at 800x1280, UPerHead at 512x2048
    96: dict(det=171.0116, seg=846.2240),
    128: dict(det=171.9946, seg=849.3183),
}


def heads_macs(width: int) -> dict[str, float]:
    """``HEADS_MACS`` of any first width: linear in it, where widths double from stage to stage."""
    (narrow, low), (wide, high) = HEADS_MACS.items()
    return {task: low[task] + (high[task] - low[task]) * (width - narrow) / (wide - narrow) for task in low}


def whole_config(task: str, family: type[Backbone], arch: str | dict, **options) -> Config:
    """Our common detector (``det``) or segmentor (``seg``) around a backbone."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/{BASES[task]}.py')
    with shapes_alone():
        channels = list(family(arch=arch, **options).out_channels)
    cfg.model.backbone = dict(type=f'mmbackbones.{family.__name__}', arch=arch, **options)
    if task == 'det':
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = channels, channels[2]
    return cfg


def build_whole(task: str, family: type[Backbone], arch: str | dict, **options) -> nn.Module:
    """The same, as a model of shapes without values."""
    cfg = whole_config(task, family, arch, **options)
    scope = cfg.default_scope
    with DefaultScope.overwrite_default_scope(scope), shapes_alone():
        importlib.import_module(f'{scope}.models')
        return MODELS.build(cfg.model)


def whole_macs(backbone: StagedBackbone) -> tuple[float, float]:
    """GMACs of detector and segmentor; the backbone's grow linearly in the pixels where 32 divides the sides."""
    pixels, macs = (32 * 32, 32 * 96), []
    for count in pixels:
        counts = count_module(backbone.eval(), torch.empty(1, 3, 32, count // 32))
        macs.append(sum(counts.macs['Global'].values()))
    slope = (macs[1] - macs[0]) / (pixels[1] - pixels[0])
    heads = heads_macs(backbone.out_channels[0])
    at = {shape: (macs[0] + slope * (shape[0] * shape[1] - pixels[0])) / 1e9 for shape in ((800, 1280), (512, 2048))}
    return at[800, 1280] + heads['det'], at[512, 2048] + heads['seg']
