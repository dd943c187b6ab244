"""Any feature backbone of timm as a dense backbone, for the baselines.

The networks are timm's (https://github.com/huggingface/pytorch-image-models, Apache-2.0; the pages of the weights state
their licences). This file adds: any image size, processed as in the authors' dense code; a norm on each returned map;
freezing, activation checkpointing, layer depths and loading of weights like the other backbones.
"""

import re
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from timm.models import group_parameters
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.twins import Block as TwinsBlock
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from typing_extensions import Unpack

from mmbackbones.backbones.base import OUT_TYPES, STRIDES, Backbone, RunOptions
from mmbackbones.backbones.base.checkpointing import keep_statistics_still
from mmbackbones.checkpoints.adapters.timm_models import check_timm_name, convert_timm, timm_module
from mmbackbones.choices import ATTENTION, OLD_ATTENTION
from mmbackbones.errors import InputError
from mmbackbones.layers.windows import into_windows, missing, out_of_windows
from mmbackbones.registry import MODELS

# Options of timm's classes, by source module, that make a network of one size take any. Without always_partition Swin
# shrinks its windows to a small map and then no longer shifts them.
WINDOWS = dict(strict_img_size=False, always_partition=True)
POSITIONS = dict(dynamic_img_size=True, dynamic_img_pad=True)
ANY_SIZE = {
    'swin_transformer': WINDOWS,
    'swin_transformer_v2': WINDOWS,
    'deit': POSITIONS,
    'eva': POSITIONS,
    'vision_transformer': POSITIONS,
}
# Source modules whose authors pad odd maps before halving them; the others' convolutions drop the odd row.
PADDED_DOWNSAMPLING = ('focalnet',)
BATCH_NORMS = ('BN', 'SyncBN')
BATCH_NORM = dict(type='BN')
SHAPE_ERROR = re.compile(r'size of tensor|shape|split_with_sizes|divisible|kernel size', re.IGNORECASE)


class _PadBeforeShift:
    """Swin as in its authors' dense code: a map is padded to whole windows, then shifted.

    timm shifts first, so that its mask is not at the place where opposite borders meet (issue 2438 of its repository).
    """

    def _attn(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> the same shape."""
        shape, sides, shift = x.shape, self.window_size, self.shift_size
        mask = None
        if any(shift):
            bottom, right = (missing(side, window) for side, window in zip(shape[1:3], sides))
            x = F.pad(x, (0, 0, 0, right, 0, bottom)).roll((-shift[0], -shift[1]), (1, 2))
            mask = self._mask(x)
        padded = x.shape
        x = out_of_windows(self.attn(into_windows(x, sides), mask=mask), sides, padded)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, : shape[1], : shape[2]]

    def _mask(self, x: Tensor) -> Tensor:
        """[windows, L, L]: -100 between pixels of a shifted window that come from opposite borders of ``x``."""
        height, width = (
            torch.arange(side, device=x.device) >= side - shift for side, shift in zip(x.shape[1:3], self.shift_size)
        )
        border = (2 * height.int()[:, None] + width.int())[None, ..., None]
        border = into_windows(border, self.window_size)  # [windows, L, 1]
        return (border != border.transpose(1, 2)).to(x.dtype) * -100


class _SwinBlock(_PadBeforeShift, SwinTransformerBlock):
    pass


class _SwinV2Block(_PadBeforeShift, SwinTransformerV2Block):
    pass


class _CheckpointedTwinsBlock(TwinsBlock):
    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x, size)
        return checkpoint(super().forward, x, size, use_reentrant=False)


# Blocks of networks that timm cannot checkpoint.
CHECKPOINTED_BLOCKS = {TwinsBlock: _CheckpointedTwinsBlock}
PADDED_BLOCKS = {SwinTransformerBlock: _SwinBlock, SwinTransformerV2Block: _SwinV2Block}


@MODELS.register_module()
class TimmBackbone(Backbone):
    """A timm model for detection and segmentation.

    ``arch`` is timm's name of the model, with or without the tag of its weights (``'convnext_tiny.fb_in1k'``), or a
    dict of the ``name`` and keyword arguments of timm's model class. (An argument that timm fixes for this name resets
    its other ones to the class's defaults.)

    Args:
        attention (str): ``'sdpa'`` runs attention through torch's ``scaled_dot_product_attention``. ``'eager'`` stores
            the attention matrix, as in the speed figures of early papers.
        size_divisor (int | None): pad the image at the bottom and the right to multiples of this many pixels, for
            networks that require it; maps are cropped afterwards. None: pad to whole patches if patches do not overlap.
        norm_eval (bool): keep the network's batch norms at their pretrained running statistics.
        bn_cfg (dict): ``type='SyncBN'`` synchronises the network's batch norms over the devices, ``'BN'`` does not.
        out_type (str): ``'map'`` returns the patches. ``'cls_token'`` returns the class token, which classifiers read,
            as a map of one pixel [B, C, 1, 1].

    The other arguments are those of :class:`Backbone`. ``out_indices`` are those of timm's ``features_only`` mode (0 of
    a ResNet is its stem). None: the maps of strides 4, 8, 16 and 32. Plain nets, whose maps have one stride, need the
    indices of their blocks. timm's groups define the stages to freeze and the blocks to checkpoint. Weights of timm's
    hub have addresses such as ``hf://timm/convnext_tiny.fb_in1k/model.safetensors``.

    Raises:
        InputError: unknown name or option, a model without feature maps, ``out_indices`` beyond its maps, or an
            unsupported image size.
    """

    def __init__(
        self,
        *,
        attention: str = 'sdpa',
        size_divisor: int | None = None,
        norm_eval: bool = False,
        bn_cfg: dict = BATCH_NORM,
        out_type: str = 'map',
        **run: Unpack[RunOptions],
    ):
        super().__init__(**run)
        self.check_choice(OUT_TYPES, out_type=out_type)
        self.out_type = out_type
        attention = OLD_ATTENTION.get(str(attention), attention)
        self.check_choice(ATTENTION, attention=attention)
        if bn_cfg.get('type') not in BATCH_NORMS:
            raise InputError(f'TimmBackbone: bn_cfg={bn_cfg}, expected a type of {", ".join(BATCH_NORMS)}')
        net = create_net(self.arch.name, self.arch.options, self.drop_path_rate)
        if out_type == 'cls_token' and getattr(net, 'cls_token', None) is None:
            raise InputError(f"{self.family}: out_type='cls_token', but it has no class token")
        if run.get('out_indices') is None:
            self.out_indices = self._usual_maps(net)
        self.check_out_indices(len(net.feature_info), 'feature maps')
        infos = [net.feature_info[i] for i in self.out_indices]
        self.out_channels = tuple(info['num_chs'] for info in infos)
        self.out_strides = tuple(info['reduction'] for info in infos)

        whole = net.state_dict().keys()
        net.prune_intermediate_layers(list(self.out_indices), prune_norm=True, prune_head=True)
        self.allowed_unexpected = tuple(f'net.{key}' for key in sorted(whole - net.state_dict().keys()))
        self._choose_attention(net, attention)
        self.net = self._choose_batch_norm(net, norm_eval, bn_cfg['type'])
        self.net.is_init = True  # timm has done so; mmengine would call what it finds under the name init_weights
        self.norm_eval = norm_eval
        patch = _pad_patches(self.net, self.arch.name)
        self.size_divisor = size_divisor or patch
        if self.with_cp:
            _checkpoint_blocks(self.net)
            keep_statistics_still(self.net)
        self.convert_state_dict = partial(convert_timm, name=self.arch.name, net=self.net)
        self.add_out_norms()
        self.layer_of = _group(self.net, coarse=False)
        self.stage_of = _group(self.net, coarse=True)

    @property
    def family(self) -> str:
        return f'TimmBackbone {self.arch.name}'

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = dict(name=arch) if isinstance(arch, str) else dict(arch or {})
        if 'name' not in options:
            raise InputError(f"TimmBackbone: arch={arch} lacks the key 'name', timm's name of the model")
        name = options.pop('name')
        check_timm_name('TimmBackbone', name)
        return SimpleNamespace(name=name, options={**ANY_SIZE.get(_source(name), {}), **options})

    def _usual_maps(self, net: nn.Module) -> tuple[int, ...]:
        strides = [info['reduction'] for info in net.feature_info]
        indices = tuple(strides.index(stride) for stride in STRIDES if stride in strides)
        if len(indices) < len(STRIDES):
            raise InputError(
                f'{self.family}: its {len(strides)} maps have the strides {sorted(set(strides))}; choose out_indices'
            )
        return indices

    def _choose_attention(self, net: nn.Module, attention: str) -> None:
        layers = [module for module in net.modules() if hasattr(module, 'fused_attn')]
        if attention == 'eager' and not layers:
            raise InputError(f"{self.family}: attention='eager', but it has no attention to choose")
        for layer in layers:
            layer.fused_attn = attention == 'sdpa'

    def _choose_batch_norm(self, net: nn.Module, norm_eval: bool, kind: str) -> nn.Module:
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        if (norm_eval or kind != 'BN') and not norms:
            raise InputError(f'{self.family}: norm_eval={norm_eval}, bn_cfg.type={kind!r}, but it has no batch norm')
        if kind == 'BN':
            return net
        if any(isinstance(norm, BatchNormAct2d) for norm in norms):
            # mmengine reverts synchronised norms in a single process, and would lose the activation within.
            raise InputError(
                f"{self.family}: bn_cfg.type='SyncBN', but its norms hold activations; only 'BN' is supported"
            )
        return convert_sync_batchnorm(net)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W] -> one map [B, C, about H/s, about W/s] per out index."""
        self.check_image(x, smallest=min(self.out_strides))
        size = tuple(x.shape[-2:])
        # Whole patches, and at least one pixel in the coarsest map.
        divisor = self.size_divisor
        target = [max((side + divisor - 1) // divisor * divisor, self.out_strides[-1]) for side in size]
        x = F.pad(x, (0, target[1] - size[1], 0, target[0] - size[0]))
        try:
            token = dict(return_prefix_tokens=True) if self.out_type == 'cls_token' else {}
            maps = self.net.forward_intermediates(x, indices=list(self.out_indices), intermediates_only=True, **token)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not SHAPE_ERROR.search(str(error)):
                raise
            raise self._refuse(size, ' '.join(str(error).split())[:200] or 'it does not divide it') from error
        if token:
            # Prefix tokens [B, n, C], the class token first -> [B, 1, 1, C]
            return tuple(
                self.apply_out_norm(index, prefix[:, None, :1]) for index, (_, prefix) in zip(self.out_indices, maps)
            )
        outs = []
        for index, stride, out in zip(self.out_indices, self.out_strides, maps):
            out = out[..., : (size[0] + stride - 1) // stride, : (size[1] + stride - 1) // stride]
            if any(abs(cells - side / stride) >= 1 for cells, side in zip(out.shape[2:], size)):
                raise self._refuse(size, f'map {index} of stride {stride} would measure {out.shape[2]}x{out.shape[3]}')
            outs.append(self.apply_out_norm(index, out.permute(0, 2, 3, 1)))  # [B, C, H, W] -> [B, H, W, C]
        return tuple(outs)

    def _refuse(self, size: tuple[int, int], reason: str) -> InputError:
        return InputError(f'{self.family} takes no image of {size[0]}x{size[1]} px: {reason}')

    def train(self, mode: bool = True) -> 'TimmBackbone':
        super().train(mode)
        if self.norm_eval:
            for module in self.net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def freezable_modules(self) -> list[list[nn.Module]]:
        """The largest modules that lie within one stage; see :meth:`_freeze` for the parameters outside of any."""
        groups: list[list[nn.Module]] = [[] for _ in range(max(self.stage_of.values()) + 1)]

        def visit(module: nn.Module, prefix: str) -> None:
            for name, child in module.named_children():
                names = (f'{prefix}{name}.{key}' for key, _ in child.named_parameters())
                stages = {self.stage_of[key] for key in names if key in self.stage_of}  # shared ones have one name
                if len(stages) == 1:
                    groups[stages.pop()].append(child)
                elif stages:
                    visit(child, f'{prefix}{name}.')

        visit(self.net, '')
        return groups

    def _freeze(self) -> None:
        super()._freeze()
        for name, parameter in self.net.named_parameters():
            if self.stage_of[name] <= self.frozen_stages:
                parameter.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer 0 is the stem, then timm's groups, which are blocks, or stages where timm knows no finer ones."""
        num_layers = max(self.layer_of.values()) + 2
        name = param_name.removeprefix(prefix).removeprefix('net.')
        return self.layer_of.get(name, num_layers - 1), num_layers

    def no_weight_decay(self) -> set[str]:
        """What timm's model names: position tables, class tokens, biases of relative positions."""
        named = getattr(self.net, 'no_weight_decay', set)()
        return {f'net.{name}' for name, _ in self.net.named_parameters() if name in named}


def create_net(name: str, options: dict, drop_path_rate: float = 0.0) -> nn.Module:
    """timm's model without weights. ``options`` are arguments of its class, which may fix none of them."""
    if drop_path_rate:
        options = dict(options, drop_path_rate=drop_path_rate)
    try:
        try:
            net = timm.create_model(name, pretrained=False, **options)
        except TypeError as error:
            if 'multiple values' not in str(error):
                raise
            # Some of timm's constructors fix what others let one override.
            with torch.device('meta'):
                model_class = type(timm.create_model(name))
            net = model_class(**options)
    except (TypeError, AssertionError) as error:
        raise InputError(f'TimmBackbone {name}: {error}') from error
    needed = ('forward_intermediates', 'prune_intermediate_layers', 'feature_info')
    if not all(hasattr(net, attribute) for attribute in needed):
        raise InputError(f'TimmBackbone {name}: it gives no feature maps')
    return net


def _source(name: str) -> str:
    return timm_module(name).__name__.rpartition('.')[2]


def _group(net: nn.Module, coarse: bool) -> dict[str, int]:
    """Layer, or stage, of each parameter: by timm's rule, else by the module that ends in a feature map.

    0 is what precedes all others; what a rule leaves out counts as the last.
    """
    ends = [f'{info["module"]}.' for info in net.feature_info]

    def rule(name: str) -> int:
        return next((i + 1 for i, end in enumerate(ends) if name.startswith(end)), 0)

    if hasattr(net, 'group_matcher'):
        with suppress(AssertionError):  # timm's way to say that it has no rule of this kind
            rule = net.group_matcher(coarse=coarse)
    groups = group_parameters(net, rule, reverse=True)
    last = max(groups.values(), default=0)
    return {name: groups.get(name, last) for name, _ in net.named_parameters()}


def _pad_patches(net: nn.Module, name: str) -> int:
    """Pixels of the side of a patch, 1 if patches overlap; sets up the padding of windows and later halvings."""
    stem = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    for module in net.modules():
        module.__class__ = PADDED_BLOCKS.get(type(module), type(module))
    if _source(name) in PADDED_DOWNSAMPLING:
        for path, module in net.named_modules():
            if 'downsample' in path and _is_patchify(module):
                module.register_forward_pre_hook(_pad_to_stride)
    return stem.stride[0] if _is_patchify(stem) else 1


def _checkpoint_blocks(net: nn.Module) -> None:
    blocks = [module for module in net.modules() if type(module) in CHECKPOINTED_BLOCKS]
    for block in blocks:
        block.__class__ = CHECKPOINTED_BLOCKS[type(block)]
    if not blocks:
        net.set_grad_checkpointing(True)


def _is_patchify(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.stride[0] > 1


def _pad_to_stride(conv: nn.Conv2d, args: tuple[Tensor]) -> Tensor:
    (x,) = args
    return F.pad(x, (0, missing(x.shape[-1], conv.stride[1]), 0, missing(x.shape[-2], conv.stride[0])))
