"""Classifiers of mmpretrain with the networks of the zoo, for training and for the authors' weights, head included.

Importing this module registers them. A config has ``custom_imports = dict(imports=['mmbackbones.integrations.…'])``,
because mmpretrain is an optional part of the installation.
"""

from collections.abc import Mapping
from typing import Any

from mmpretrain.models.classifiers import ImageClassifier as MMImageClassifier
from mmpretrain.models.heads import ClsHead as MMClsHead
from torch import Tensor

from mmbackbones.checkpoints.layout import BACKBONE, under_prefix
from mmbackbones.integrations.published_heads import RAVLT_WIDTH, build_top, take_top
from mmbackbones.registry import MODELS

TOP = 'head.top.'


@MODELS.register_module()
class ClsHead(MMClsHead):
    """The head of the authors' classifier on the last map of a backbone.

    Args:
        family (str): class of the backbone, such as ``'VMamba'``; see
            :func:`mmbackbones.integrations.published_heads.build_top`.
        in_channels (int): channels of the last map.
        num_classes (int): classes.
        arch (str | dict, optional): of a :class:`mmbackbones.backbones.TimmBackbone`.
        width (int): channels of RAVLT's projection.
        loss, topk, cal_acc, init_cfg: as in mmpretrain.

    ``forward`` takes a tuple of maps [B, C, h, w] and returns logits [B, num_classes].
    """

    def __init__(
        self,
        family: str,
        in_channels: int,
        num_classes: int,
        arch: str | Mapping[str, Any] | None = None,
        width: int = RAVLT_WIDTH,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.top = build_top(family, in_channels, num_classes, arch, width)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The vector that the linear layer reads."""
        return self.top.pool(feats[-1])

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        return self.top(feats[-1])


@MODELS.register_module()
class ImageClassifier(MMImageClassifier):
    """mmpretrain's classifier, which also loads weights in the layout of a network's authors.

    All arguments are mmpretrain's; ``head`` is a :class:`ClsHead`.
    """

    def convert_state_dict(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' keys to ours. Keys that are ours stay as they are.

        Args:
            weights (dict): of a bare classifier, or with the backbone's under ``backbone.`` (OpenMMLab's layout).
        """
        inner = under_prefix(weights, BACKBONE)
        rest = {key: x for key, x in weights.items() if not key.startswith(BACKBONE)} if inner else {}
        trunk = self.backbone.convert_state_dict(dict(inner or weights))
        top, used = take_top(self.head.top, {**trunk, **rest})
        converted = {BACKBONE + key: x for key, x in trunk.items() if key not in used}
        converted |= {key: x for key, x in rest.items() if key not in used}
        return converted | {TOP + key: x for key, x in top.items()}
