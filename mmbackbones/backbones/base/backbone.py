"""The base class of every backbone: options, architectures, freezing, output norms, loading."""

import inspect
import re
from abc import ABCMeta
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import TypedDict, get_args

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit, initialize
from torch import Tensor, nn

from mmbackbones.backbones.base.checkpointing import run_checkpointed
from mmbackbones.errors import InputError

PRETRAINED = 'mmbackbones.Pretrained'
UNDECAYED = re.compile(r'A(_\w)?_logs?|A_imag|log_dt|D(_\w)?|Ds|direction_Bs|pos_embed|cls_token')
OUT_TYPES = ('map', 'cls_token')  # of plain networks: the patches, or the class token as a map of one pixel
NUMERICS = ('official', 'exact')  # what the released weights were trained with, or what the paper says


class RunOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Backbone`, for the signatures of its subclasses (PEP 692)."""

    arch: str | dict | None
    out_indices: Sequence[int] | None
    drop_path_rate: float
    frozen_stages: int
    with_cp: bool
    norm_cfg: dict | str | None
    init_cfg: dict | list[dict] | None


class _BackboneType(ABCMeta):
    """Checks the keywords before the first constructor, and freezes modules after the last one.

    Freezing can't wait for ``init_weights``: DistributedDataParallel wraps a model before its weights are initialized.
    """

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's own arguments, and those that its ``**run: Unpack[...]`` hands on to the bases."""
        known: dict[str, inspect.Parameter] = {}
        handed_on: Collection[str] | None = None  # None: all
        for base in cls.__mro__:
            if '__init__' not in vars(base):
                continue
            _, *own = inspect.signature(base.__init__).parameters.values()
            taken = [p for p in own if p.kind != p.VAR_KEYWORD and (handed_on is None or p.name in handed_on)]
            known = {p.name: p for p in taken} | known
            run = next((p for p in own if p.kind == p.VAR_KEYWORD), None)
            if run is None:
                break
            for options in get_args(run.annotation):
                handed_on = [name for name in options.__annotations__ if handed_on is None or name in handed_on]
        return inspect.Signature(sorted(known.values(), key=lambda p: p.kind))

    def __call__(cls, *args, **kwargs):
        signature = cls.__signature__
        if 'pretrained' in kwargs and 'pretrained' not in signature.parameters:  # mmseg hands down model.pretrained
            raise InputError(
                f'{cls.__name__} takes its weights from init_cfg; set model.pretrained=None, which is '
                f'{kwargs["pretrained"]!r}'
            )
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f'{cls.__name__}.__init__() {error}; known: {", ".join(signature.parameters)}') from None
        backbone = super().__call__(*args, **kwargs)
        backbone._freeze()
        return backbone


class Backbone(BaseModule, metaclass=_BackboneType):
    """Base class: NCHW image in, tuple of NCHW maps out.

    A family defines its architectures and their defaults in the class attributes below, and its ``convert_state_dict``.
    Most families derive from :class:`StagedBackbone` or :class:`PlainBackbone` and add methods that make their parts.
    Others build their layers, set ``out_channels`` and ``out_strides`` (one entry per returned map) and implement
    ``forward``, ``freezable_modules`` and ``get_layer_depth``.

    ``arch`` defines the network. The other arguments are options of a run, which all families inherit. A family with
    one more option writes ``def __init__(self, *, mine=..., **run: Unpack[RunOptions])``, keeps ``mine`` in an
    attribute and then calls ``super().__init__(**run)``, which builds the layers. The signature of the class shows all
    arguments. An unknown keyword is a ``TypeError`` that names the known ones.

    Args:
        arch (str | dict | None): a name of ``archs``, or a dict with all keys of ``arch_required`` and any of
            ``arch_defaults``. None: ``default_arch``.
        out_indices (Sequence[int] | None): maps to return, ascending: stages 0 (stride 4) to 3 (stride 32) of
            hierarchical nets, blocks of plain nets. Layers after the last one are not built. None:
            ``default_out_indices``.
        drop_path_rate (float): stochastic depth, growing linearly from 0 over all blocks to this rate.
        frozen_stages (int): -1 trains everything, 0 freezes the stem, n also the first n stages (blocks, in plain
            nets). Frozen modules stay in eval mode.
        with_cp (bool): activation checkpointing. Blocks are computed again in the backward pass, which saves memory.
        norm_cfg (dict | str | None): norm on each returned map, ``outnorm{i}``. ``'LN'``: LayerNorm with the family's
            ``norm_eps``. A dict: mmcv's configuration of a norm. None: no norm.
        init_cfg (dict | list[dict] | None): mmengine's initializers. ``Pretrained`` means ``mmbackbones.Pretrained``
            here. It runs after all other initializers.

    Raises:
        InputError: an option out of its range, unknown or missing keys of ``arch``, or ``out_indices`` that do not
            ascend or are too large; in ``forward``, an image smaller than the stem.

    Attributes:
        archs (dict[str, dict]): the named architectures, each with its keys of ``arch``.
        arch_required (tuple[str, ...]), arch_defaults (dict): required and optional keys of ``arch``.
        default_arch (str | None), default_out_indices (tuple[int, ...]), norm_eps (float): see above.
        allowed_missing (tuple[str, ...]): prefixes of keys that may be missing in a checkpoint (they keep their
            initialization).
        allowed_unexpected (tuple[str, ...]): prefixes of keys that may be unexpected in a converted checkpoint.
    """

    archs: dict[str, dict] = {}
    arch_required: tuple[str, ...] = ()
    arch_defaults: dict = {}
    default_arch: str | None = None
    default_out_indices: tuple[int, ...] = ()
    norm_eps = 1e-6
    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    allowed_missing: tuple[str, ...] = ('outnorm',)
    allowed_unexpected: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        arch: str | dict | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_cfg: dict | str | None = 'LN',
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = self.resolve_arch(arch)
        if not 0 <= drop_path_rate < 1:
            raise InputError(f'{self.family}: drop_path_rate={drop_path_rate}, expected 0 or more and below 1')
        if isinstance(norm_cfg, str):
            self.check_choice(('LN',), norm_cfg=norm_cfg)
            norm_cfg = dict(type='LN', eps=self.norm_eps)
        self.out_indices = tuple(self.default_out_indices if out_indices is None else out_indices)
        self.drop_path_rate, self.frozen_stages, self.with_cp = drop_path_rate, frozen_stages, with_cp
        self.norm_cfg = norm_cfg

    @property
    def family(self) -> str:
        """Who speaks in the message of an error."""
        return type(self).__name__

    @classmethod
    def look_up(cls, arch: str | dict | None) -> dict:
        """The keys of a named architecture (None: ``default_arch``). A dict is returned as it is.

        Raises:
            InputError: unknown name.
        """
        arch = cls.default_arch if arch is None else arch
        if arch is None or isinstance(arch, dict):
            return dict(arch or {})
        if arch not in cls.archs:
            raise InputError(f'{cls.__name__}: unknown arch {arch!r}; known: {", ".join(cls.archs)}, or a dict')
        return dict(cls.archs[arch])

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        """The result of :func:`look_up`, checked and completed by the family's defaults.

        Raises:
            InputError: unknown name, unknown or missing key.
        """
        arch, known = cls.look_up(arch), (*cls.arch_required, *cls.arch_defaults)
        if unknown := [key for key in arch if key not in known]:
            raise InputError(
                f'{cls.__name__}: arch has unknown keys {", ".join(map(repr, unknown))}; known: {", ".join(known)}'
            )
        if missing := [key for key in cls.arch_required if key not in arch]:
            raise InputError(f'{cls.__name__}: arch lacks {" and ".join(map(repr, missing))}')
        return SimpleNamespace(**{**cls.arch_defaults, **arch})

    def check_choice(self, known: Collection[str], **options: object) -> None:
        """Refuse options with unknown values. May be called before the constructor of the base class.

        Raises:
            InputError: it names the option and its possible values.
        """
        for name, value in options.items():
            if value not in known:
                raise InputError(f'{self.family}: {name}={value!r}, expected one of {", ".join(known)}')

    def check_out_indices(self, count: int, what: str = 'stages') -> None:
        """Refuse ``out_indices`` that are not ascending indices below ``count``.

        Raises:
            InputError: they are empty, unordered, repeated or too large.
        """
        indices = self.out_indices
        if not indices or indices != tuple(sorted(set(indices))) or indices[0] < 0 or indices[-1] >= count:
            raise InputError(f'{self.family}: out_indices={indices}, expected ascending {what} out of 0..{count - 1}')

    def check_image(self, x: Tensor, smallest: int) -> None:
        """Refuse an image batch that the stem cannot process.

        Raises:
            InputError: not a [B, C, H, W] float batch, or a side below ``smallest`` pixels.
        """
        if x.dim() != 4 or not torch.is_floating_point(x):
            raise InputError(f'{self.family}: expected a float image batch [B, C, H, W], got {x.dtype} {list(x.shape)}')
        if min(x.shape[-2:]) < smallest:
            raise InputError(
                f'{self.family}: image {x.shape[-2]}x{x.shape[-1]} is smaller than the stem, {smallest} px'
            )

    def checkpointed(self, block: nn.Module, *args: object) -> Tensor | tuple[Tensor, ...]:
        """Call a block, with activation checkpointing if ``with_cp`` is True."""
        return run_checkpointed(block, *args) if self.with_cp and torch.is_grad_enabled() else block(*args)

    @staticmethod
    def convert_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published classifier to this backbone's, which pass through; overridden by families."""
        return state_dict

    def freezable_modules(self) -> list[list[nn.Module]]:
        """The stem's modules first, then those of each stage, in forward order."""
        raise NotImplementedError

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay, as in mmpretrain.

        Args:
            param_name (str): name in the whole model.
            prefix (str): prefix of the backbone's names, ``'backbone.'`` in a detector.

        Returns:
            tuple[int, int]: layer index (0 is the stem) and number of layers.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names, within the backbone, of parameters without weight decay, besides norms.

        Here: state matrices and skip weights of scans, steps that are weights, position tables, class tokens.
        """
        return {name for name, _ in self.named_parameters() if UNDECAYED.fullmatch(name.rpartition('.')[2])}

    def add_out_norms(self) -> None:
        """Register ``outnorm{i}`` for each returned map."""
        for index, channels in zip(self.out_indices, self.out_channels):
            norm = nn.Identity() if self.norm_cfg is None else build_norm_layer(self.norm_cfg, channels)[1]
            self.add_module(f'outnorm{index}', norm)

    def apply_out_norm(self, index: int, x: Tensor) -> Tensor:
        """Normalize a channels-last map and convert it to the layout of the neck.

        Args:
            index (int): stage or block of the norm.
            x (Tensor): map [B, H, W, C].

        Returns:
            Tensor: contiguous map [B, C, H, W].
        """
        norm = getattr(self, f'outnorm{index}')
        last = isinstance(norm, nn.LayerNorm | nn.Identity)
        x = norm(x).permute(0, 3, 1, 2) if last else norm(x.permute(0, 3, 1, 2))  # [B, H, W, C] -> [B, C, H, W]
        return x.contiguous()

    def init_weights(self) -> None:
        """Run all initializers, the pretrained weights last.

        mmengine runs only the type named exactly ``Pretrained`` after the children are initialized.
        """
        init_cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or ())
        pretrained = [cfg for cfg in init_cfgs if cfg['type'] in ('Pretrained', PretrainedInit, PRETRAINED)]
        declared, self.init_cfg = self.init_cfg, [cfg for cfg in init_cfgs if cfg not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = declared
        for cfg in pretrained:
            initialize(self, {**cfg, 'type': PRETRAINED})
        self._freeze()

    def _dump_init_info(self) -> None:
        """Nothing: for a backbone alone, mmengine would log two lines for each of hundreds of parameters."""

    def _freeze(self) -> None:
        groups = self.freezable_modules() if self.frozen_stages >= 0 else []
        if self.frozen_stages >= max(len(groups), 1):
            raise InputError(
                f'{self.family}: frozen_stages={self.frozen_stages}, but there are {len(groups) - 1} stages'
            )
        for module in (module for group in groups[: self.frozen_stages + 1] for module in group):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> 'Backbone':
        super().train(mode)
        if mode:
            self._freeze()
        return self
