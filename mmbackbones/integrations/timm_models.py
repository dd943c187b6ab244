"""The models of the zoo in timm's registry.

Importing this module registers them::

    import timm
    import mmbackbones.integrations.timm_models

    model = timm.create_model('vmamba_tiny_s1l8.mmb', pretrained=True, num_classes=10)
    maps = timm.create_model('vmamba_tiny_s1l8.mmb', features_only=True, out_indices=(1, 2, 3))

The tag ``mmb`` names the weights of the zoo. A model that timm has itself under the same name, such as
``mambaout_tiny``, is not registered: timm's stays.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from timm.layers import SelectAdaptivePool2d
from timm.models import is_model, register_model
from timm.models._features import FeatureInfo
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from torch import Tensor, nn

from mmbackbones.checkpoints.layout import of_backbone, weights_of
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.errors import InputError
from mmbackbones.integrations.published_heads import HEADS, RAVLT_WIDTH, TOKENS, PublishedHead, build_norm
from mmbackbones.zoo.create import create_backbone, shape_only
from mmbackbones.zoo.models import license_of_weights, model_names, model_row

TAG = 'mmb'
CLASSES = 1000  # of ImageNet-1K


class ZooClassifier(nn.Module):
    """A backbone with timm's interface of a classifier: norm on the last map, pooling, linear layer.

    :mod:`.published_heads` has the norm of each family.

    Args:
        name (str): a name of :func:`mmbackbones.list_backbones`.
        pretrained (bool): load the weights of the zoo; those of the linear layer, too, if ``num_classes`` is 1000.
        num_classes (int): 0: no linear layer.
        global_pool (str): as in timm: ``'avg'``, ``'max'``, ``''`` for none.
        drop_rate (float): dropout before the linear layer.
        pretrained_cfg (dict): what timm's data functions read.
        width (int): channels of RAVLT's features, which a 1x1 convolution makes of its last map.
        options: of :func:`mmbackbones.create_backbone`, such as ``drop_path_rate``.

    Raises:
        InputError: what :func:`mmbackbones.create_backbone` refuses; the published classifier of a model whose head is
            of another kind.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        num_classes: int = CLASSES,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        pretrained_cfg: dict | None = None,
        width: int = RAVLT_WIDTH,
        **options: Any,
    ):
        super().__init__()
        head = HEADS.get(model_row(name)['class'])
        head = None if head is TOKENS else head  # Vim's reads the class token, which is not part of the maps
        if pretrained and num_classes == CLASSES and head is None:
            raise InputError(
                f'{name}: its published classifier does not end in the mean of a map; pretrained=True loads the '
                f'backbone with num_classes=0 or a number of your own other than {CLASSES}'
            )
        if head is not None:
            options.setdefault('norm_cfg', None if head.projection else head.norm_cfg)
        self.backbone = create_backbone(name, pretrained, (last_index(name),), **options)
        self.num_features = self.head_hidden_size = self.backbone.out_channels[-1]
        self.projection = nn.Identity()
        if head is not None and head.projection:
            norm = build_norm(head.norm_cfg, width)
            self.projection = nn.Sequential(nn.Conv2d(self.num_features, width, 1), norm, nn.SiLU())
            self.num_features = self.head_hidden_size = width
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.pretrained_cfg = self.default_cfg = pretrained_cfg or {}
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._linear(num_classes)
        if pretrained and head is not None:
            self._load_head(name, head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the last map with its norm, [B, C, h, w]."""
        return self.projection(self.backbone(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map [B, C, h, w] -> logits [B, num_classes]; with ``pre_logits`` the pooled vector [B, C]."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by a new one; 0 classes: by nothing."""
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.num_classes = num_classes
        self.head = self._linear(num_classes).to(next(self.backbone.parameters()).device)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        return {f'backbone.{name}' for name in self.backbone.no_weight_decay()}

    def _linear(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        linear = nn.Linear(self.num_features, num_classes)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        return linear

    def _load_head(self, name: str, head: PublishedHead) -> None:
        """Norm and linear layer from the file of which the backbone has its own."""
        address = f'zoo://{name}'
        whole = weights_of(load_checkpoint(address).content, address)
        weights = {**whole, **self.backbone.convert_state_dict(dict(of_backbone(whole)))}
        parts: list[tuple[str, nn.Module]] = []
        if head.projection:
            parts += [(head.projection, self.projection[0]), (head.norm or '', self.projection[1])]
        elif head.norm and head.norm != 'outnorm':  # which the backbone loads as the norm of its last map
            parts.append((head.norm, getattr(self.backbone, f'outnorm{self.backbone.out_indices[-1]}')))
        if self.num_classes == CLASSES:
            parts.append((head.linear, self.head))
        for prefix, module in parts:
            own = {key.removeprefix(f'{prefix}.'): x for key, x in weights.items() if key.startswith(f'{prefix}.')}
            if module is self.head:
                own = {key: x.flatten(1) if x.dim() == 4 else x for key, x in own.items()}  # RAVLT: a 1x1 kernel
            try:
                module.load_state_dict(own)
            except RuntimeError as error:
                raise InputError(f'{address}: {prefix} of the classifier does not fit: {error}') from error


class ZooFeatures(nn.Module):
    """A backbone with timm's interface of ``features_only=True``: images in, list of NCHW maps out.

    Attributes:
        feature_info (FeatureInfo): channels and reductions of the maps.
    """

    def __init__(
        self, name: str, *, pretrained: bool = False, out_indices: Sequence[int] | None = None, **options: Any
    ):
        super().__init__()
        self.backbone = create_backbone(name, pretrained, out_indices, **options)
        every = shape_only(name, **{**options, 'out_indices': tuple(range(self.backbone.out_indices[-1] + 1))})
        self.feature_info = FeatureInfo(
            [
                dict(num_chs=channels, reduction=stride, module=f'backbone.outnorm{index}')
                for index, channels, stride in zip(every.out_indices, every.out_channels, every.out_strides)
            ],
            self.backbone.out_indices,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.backbone(x))


def last_index(name: str) -> int:
    """Index of the last map of a model: of a stage, or of a block of a plain network."""
    return shape_only(name).out_indices[-1]


def _entry(name: str) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False,
        pretrained_cfg: str | None = None,
        pretrained_cfg_overlay: dict | None = None,
        cache_dir: str | None = None,
        features_only: bool = False,
        in_chans: int = 3,
        **options: Any,
    ) -> nn.Module:
        if isinstance(pretrained_cfg, str) and pretrained_cfg != TAG:
            raise InputError(f'{name}.{pretrained_cfg}: no such weights; known: {name}.{TAG}')
        if in_chans != 3:
            raise InputError(f'{name}: in_chans={in_chans}, expected 3')
        if features_only:
            return ZooFeatures(name, pretrained=pretrained, **options)
        cfg = {**default_cfgs[name].default.to_dict(), 'architecture': name, **(pretrained_cfg_overlay or {})}
        return ZooClassifier(name, pretrained=pretrained, pretrained_cfg=cfg, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f'{name} of mmbackbones; see :class:`ZooClassifier` and, with ``features_only``, :class:`ZooFeatures`.'
    )
    return build


def _cfg(name: str) -> DefaultCfg:
    weights = model_row(name)['weights']
    cfg = PretrainedCfg(
        url=weights or None, tag=TAG, classifier='head', license=license_of_weights(name) or None, num_classes=CLASSES
    )
    return DefaultCfg(tags=deque([TAG]), cfgs={TAG: cfg}, is_pretrained=bool(weights))


default_cfgs = {name: _cfg(name) for name in model_names() if not is_model(name)}
__all__ = ['ZooClassifier', 'ZooFeatures']
for _name in default_cfgs:
    register_model(_entry(_name))
