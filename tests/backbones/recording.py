"""Every tensor that a golden case of a staged backbone records, taken from our model."""

import torch
from torch import Tensor

from mmbackbones.backbones.base import StagedBackbone
from tests.backbones.staged_cases import TOLERANCE, Case, load_weights


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


def recorded(case: Case) -> set[str]:
    """Names of what a case records."""
    return {key for key in case.tensors if not key.startswith('state_dict') and key != 'x'}


def assert_close(actual: dict[str, Tensor], case: Case, tolerance: dict[str, float] = TOLERANCE) -> None:
    for key, value in actual.items():
        torch.testing.assert_close(value, case.tensors[key], msg=lambda m, k=key: f'{k}: {m}', **tolerance)
