"""What is known of a model, and which models there are: reads tables, builds nothing until it is asked for sizes."""

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from mmbackbones.errors import InputError
from mmbackbones.zoo.models import (
    TASKS,
    drop_path,
    is_non_commercial,
    license_of_weights,
    literal_arch,
    model_names,
    model_row,
)
from mmbackbones.zoo.published import TABLES, Match, match_network, token_mixer


@dataclass(frozen=True)
class BackboneInfo:
    """What the zoo knows of a model. The sizes are found when they are asked for, without memory for weights.

    Attributes:
        name (str): as in ``create_backbone(name)`` and ``zoo://name``.
        type (str): of a config, such as ``'mmbackbones.VMamba'``.
        arch (str | dict): of a config.
        token_mixer (str): ``'conv'``, ``'attn'``, ``'ssm'`` or several, joined by ``+``.
        weights (str | None): address of the ImageNet weights; None if no file is verified.
        sha256 (str | None): of that file; None if unknown.
        weights_source (str): who states the address, and what the file holds; or why there is none.
        code_license (str): licence of the authors' code.
        weights_license (str): licence of the weights; empty if unknown.
        non_commercial (bool): whether that licence forbids commercial use.
        published (dict[str, Match]): by task, the published row of the model, or why there is none.
        drop_path (dict[str, tuple[float, str]]): by task, the drop path rate of the common recipe and its source.
        options (dict): the arguments that the sizes depend on, as given to :func:`backbone_info`.
    """

    name: str
    type: str
    arch: str | dict
    token_mixer: str
    weights: str | None
    sha256: str | None
    weights_source: str
    code_license: str
    weights_license: str
    non_commercial: bool
    published: dict[str, Match]
    drop_path: dict[str, tuple[float, str]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """Published ImageNet-1K top-1 accuracy at 224 pixels, in percent; None if none is in the tables."""
        row = self.published['classification'].row
        return row.metrics['top1'] if row else None

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the returned maps, for the neck."""
        return self._sizes[0]

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Strides of the returned maps in pixels."""
        return self._sizes[1]

    @property
    def parameters(self) -> int:
        """Parameters of the backbone with these options, norms of the maps included."""
        return self._sizes[2]

    @functools.cached_property
    def _sizes(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        from mmbackbones.zoo.create import shape_only

        backbone = shape_only(self.name, **self.options)
        count = sum(parameter.numel() for parameter in backbone.parameters())
        return backbone.out_channels, backbone.out_strides, count


def backbone_info(
    name: str, *, task: str | None = None, out_indices: Sequence[int] | None = None, **options: Any
) -> BackboneInfo:
    """What is known of a model: weights, licences, published results, drop path rates, sizes.

    Args:
        name (str): a name of :func:`list_backbones`.
        task, out_indices, options: as in :func:`create_backbone`; ``out_channels``, ``out_strides`` and ``parameters``
            depend on them.

    Returns:
        BackboneInfo: the facts. ``info.published['detection'].row.metrics['AP_box']`` is a published result.

    Raises:
        InputError: no such model; the message names the nearest ones.
    """
    row = model_row(name)
    license = license_of_weights(name)
    return BackboneInfo(
        name=name,
        type=f'mmbackbones.{row["class"]}',
        arch=literal_arch(row),
        token_mixer=row['token_mixer'] or token_mixer(row['family'], row['variant']),
        weights=row['weights'] or None,
        sha256=row['sha256'] or None,
        weights_source=row['weights_source'],
        code_license=row['code_license'],
        weights_license=license,
        non_commercial=is_non_commercial(license),
        published={table: match_network(name.replace('_', '-'), table) for table in TABLES},
        drop_path={dense: drop_path(name, dense) for dense in TASKS},
        options=dict(task=task, out_indices=out_indices, **options),
    )


def list_backbones(
    pattern: str = '*', *, task: str | None = None, license: str | None = None, pretrained: bool = False
) -> list[str]:
    """Names of the models.

    Args:
        pattern (str): as in a shell, such as ``'*mamba*'``; upper and lower case are the same.
        task (str, optional): only models with a published result in ``'detection'`` (Mask R-CNN, 1x),
            ``'segmentation'`` (UperNet, 160k) or ``'classification'`` (ImageNet-1K).
        license (str, optional): only models whose weights have this licence: an SPDX identifier such as ``'MIT'``, or a
            pattern such as ``'*-NC-*'``.
        pretrained (bool): only models with a verified file of ImageNet weights.

    Returns:
        list[str]: in the order of the zoo, family by family.

    Raises:
        InputError: an unknown task or licence.
    """
    if task is not None and task not in TABLES:
        raise InputError(f'task {task!r}: expected one of {", ".join(TABLES)}')
    licenses = {name: license_of_weights(name).removesuffix(' (of the repository)') for name in model_names()}
    if license is not None and not any(letter in license for letter in '*?['):
        known = sorted(set(licenses.values()) - {''})
        if license.lower() not in map(str.lower, known):
            near = difflib.get_close_matches(license, known, n=1)
            hint = f'nearest: {near[0]}; known' if near else 'known'
            raise InputError(f'license {license!r}: no weights have it; {hint}: {", ".join(known)}')
    return [
        name
        for name in model_names()
        if fnmatchcase(name, pattern.lower())
        and (task is None or match_network(name.replace('_', '-'), task).row is not None)
        and (license is None or fnmatchcase(licenses[name].lower(), license.lower()))
        and (not pretrained or model_row(name)['weights'])
    ]
