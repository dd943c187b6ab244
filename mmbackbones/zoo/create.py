"""Build a backbone by its name."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from mmbackbones.backbones.base import Backbone
from mmbackbones.errors import InputError
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import CLASSIFICATION, TASKS, arch_and_options, drop_path, miniature_names
from mmbackbones.zoo.weights import SCHEME, address_of


def create_backbone(
    name: str,
    pretrained: bool | str = False,
    out_indices: Sequence[int] | None = None,
    *,
    task: str | None = None,
    **options: Any,
) -> Backbone:
    """Build a backbone: float images [B, 3, H, W] in, a tuple of maps [B, C, H / stride, W / stride] out.

    Args:
        name (str): a name of :func:`list_backbones`, such as ``'vmamba_tiny_s1l8'``, or a miniature.
        pretrained (bool | str): True loads the ImageNet weights of the zoo, which are downloaded once. A text is the
            address of other weights: a path, ``https://…``, ``hf://owner/name/file`` or ``zoo://model``.
        out_indices (Sequence[int], optional): maps to return, ascending: stages 0 to 3 of hierarchical networks, blocks
            of plain ones. Default: all four stages, or the last block.
        task (str, optional): ``'detection'``, ``'segmentation'`` or ``'classification'`` sets drop path rate and
            options of the common recipe. Default: options that hold in every task, no drop path.
        options: further arguments of the class, such as ``drop_path_rate=0.2``, ``with_cp=True``, ``frozen_stages=1``.

    Returns:
        Backbone: in training mode, on the CPU. ``out_channels`` and ``out_strides`` describe the maps.

    Raises:
        InputError: unknown name, task, option or out index; no weights are known, or they cannot be downloaded or do
            not fit.
    """
    address = pretrained if isinstance(pretrained, str) else None
    if pretrained is True:
        if name in miniature_names():
            raise InputError(f'{name}: a miniature has no pretrained weights; expected pretrained=False or an address')
        address_of(name)  # refuses a model without weights before anything is built
        address = f'{SCHEME}://{name}'
    init_cfg = dict(type='mmbackbones.Pretrained', checkpoint=address) if address else None
    backbone = _build(name, task, dict(options, out_indices=out_indices, init_cfg=init_cfg))
    backbone.init_weights()
    return backbone


def shape_only(name: str, task: str | None = None, **options: Any) -> Backbone:
    """The backbone on the meta device: shapes without values. Takes no memory and no random numbers.

    Args:
        name, task, options: as in :func:`create_backbone`.

    Raises:
        InputError: unknown name, task, option or out index.
    """
    with shapes_alone():
        return _build(name, task, options)


def _build(name: str, task: str | None, options: dict[str, Any]) -> Backbone:
    if task is not None and task not in (*TASKS, CLASSIFICATION):
        raise InputError(f'task {task!r}: expected one of {", ".join((*TASKS, CLASSIFICATION))}')
    kind, arch, recipe = arch_and_options(name, task)
    if task in TASKS and name not in miniature_names():
        recipe['drop_path_rate'] = drop_path(name, task)[0]
    backbone = MODELS.get(kind)
    known = list(inspect.signature(backbone).parameters)
    options = {key: value for key, value in options.items() if key != 'out_indices' or value is not None}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'nearest: {near[0]}; known' if near else 'known'
            raise InputError(f'{name}: unknown option {key}; {hint}: {", ".join(known)}')
    return backbone(**{'arch': arch, **recipe, **options})
