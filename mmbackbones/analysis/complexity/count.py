"""Parameters and multiply-accumulates of a detector or segmentor, as the published tables count them.

No values are computed. The model runs on fake tensors, which have shapes and no values, and every operator with a rule
is counted. The rules are those of mmengine's analyzer: one MAC for a fused multiply-add, five for an element of a norm.
A Fourier transform, for which it has none, counts 2.5 n log2 n for n complex points and half of it for real ones.
Attention is decomposed into products, so that every kind of attention counts alike. Parameters include the auxiliary
head. MACs do not, because it does not run in a test. The box head runs on the number of proposals that the config keeps
(1,000), the mask head on 100, as in mmdet; in a cascade, those of every stage. Of RTMDet-Ins's masks the maps and the
kernels are counted, not their product.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of
from mmbackbones.layers.local_scan import local_orders
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.layers.s4nd import fft_flops
from mmbackbones.ops.scan_orders import forget_orders
from mmbackbones.ops.selective_scan import ScanArguments  # registers the operator, too

# Height and width at which the papers count; docs/recipes.md names the sources.
SHAPES = {'detection': (800, 1280), 'segmentation': (512, 2048), 'classification': (224, 224)}
MASKS = 100
ROI_HEADS = ('StandardRoIHead', 'CascadeRoIHead')
WITHOUT_COST = ('init_cfg', 'drop_path_rate', 'with_cp', 'frozen_stages')  # options of backbones

# MACs of a scan per element of (B, D, L), given the state size N.
# - The first rule counts floating-point operations (state-spaces/mamba issue 110). VMamba, and those who compare with
#   it, add them to MACs uncut. That mixes two units, but it reproduces their tables.
# - The second rule is that of VMamba's first tables: products of the naive loop, halved as numpy.einsum_path counts
#   them (N/2 + N for the discretisation, N + N in the loop, 1 for D).
# - The third rule counts scans in the unit of all the rest.
SCAN_RULES: dict[str, Callable[[int], float]] = {
    '9N+1': lambda state: 9 * state + 1,
    '3.5N+1': lambda state: 3.5 * state + 1,
    '(9N+1)/2': lambda state: (9 * state + 1) / 2,
}
PUBLISHED_RULE, OLDER_RULE, ONE_UNIT = SCAN_RULES

aten = torch.ops.aten
SCAN = torch.ops.mmbackbones.selective_scan


def _product(op: object) -> Callable[..., float]:
    """Matrix product or convolution, by PyTorch's formula, which counts a multiply-add as two."""
    return lambda out, *args, **kwargs: flop_registry[op](*args, **kwargs, out_val=out) / 2


def _convolution_gradient(out: tuple, error: Tensor, x: Tensor, weight: Tensor, *args: object) -> float:
    """A step on a convolution's weights within a forward pass: each product of the convolution once per gradient."""
    wanted = sum(gradient is not None for gradient in out[:2])
    return wanted * error.numel() * weight[0].numel()


def _norm(weight: int) -> Callable[..., float]:
    """Five per element with an affine map, whose scale is argument ``weight``, four without."""
    return lambda out, x, *args, **kwargs: x.numel() * (4 if args[weight - 1] is None else 5)


def _batch_norm(out: tuple, x: Tensor, weight: Tensor | None, *args: object) -> float:
    return x.numel() * (1 if weight is None else 2)  # scale and shift; statistics are constants in a test


def _interpolation(taps: int) -> Callable[..., float]:
    return lambda out, *args, **kwargs: out.numel() * taps


def _scanned(*args: object) -> int:
    """Elements that a scan visits. With an order they are its slots, padding included."""
    scan = ScanArguments(*args[: len(ScanArguments._fields)])
    batch, dim, length = scan.u.shape
    return batch * dim * (length if scan.order is None else len(scan.order))


def _fourier(real: bool) -> Callable[..., float]:
    """Half of the floating-point operations of a Fourier transform; the real side has all of its points."""

    def macs(out: Tensor, x: Tensor, dims: list[int], *args: object) -> float:
        whole = out if x.is_complex() else x
        points = math.prod(whole.shape[dim] for dim in dims)
        return fft_flops(points, whole.numel() // points, real) / 2

    return macs


RULES: dict[object, Callable[..., float]] = {
    **{op: _product(op) for op in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution)},
    aten.convolution_backward: _convolution_gradient,
    aten.native_layer_norm: _norm(2),
    aten.native_group_norm: _norm(1),
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.upsample_nearest2d: _interpolation(1),
    aten.upsample_bilinear2d: _interpolation(4),
    aten.grid_sampler_2d: _interpolation(4),
    aten._adaptive_avg_pool2d: lambda out, x, *args: x.numel(),
    **{op: _fourier(real=True) for op in (aten._fft_r2c, aten._fft_c2r)},
    aten._fft_c2c: _fourier(real=False),
    SCAN: lambda out, u, delta, A, *args: _scanned(u, delta, A, *args) * SCAN_RULES[PUBLISHED_RULE](A.shape[1]),
}


@dataclass(frozen=True)
class Complexity:
    """Counts for one image.

    Attributes:
        shape (tuple[int, int]): height and width in pixels.
        params (dict[str, int]): parameters, by top-level module and in ``'total'``.
        macs (dict[str, int]): multiply-accumulates, with the same keys; scans by the published rule.
        submodules (dict[str, int]): MACs of every module within them, by dotted name.
        operators (dict[str, int]): MACs by operator.
        scans (dict[int, int]): scanned elements of (B, D, L), by ``d_state`` N.
        uncounted (dict[str, int]): operators without a rule, with the number of their calls; element-wise ones mostly.
    """

    shape: tuple[int, int]
    params: dict[str, int]
    macs: dict[str, int]
    submodules: dict[str, int]
    operators: dict[str, int]
    scans: dict[int, int]
    uncounted: dict[str, int]

    def scan_macs(self, rule: str = PUBLISHED_RULE) -> int:
        """The scans' part of the MACs, by one of :data:`SCAN_RULES`."""
        return round(sum(elements * SCAN_RULES[rule](state) for state, elements in self.scans.items()))

    def total_macs(self, rule: str = PUBLISHED_RULE) -> int:
        """All MACs, with the scans by one of :data:`SCAN_RULES`."""
        return self.macs['total'] - self.scan_macs() + self.scan_macs(rule)


class Count(TorchDispatchMode):
    """Context that counts the operators that run in it: ``macs`` by module and operator, ``scans``, ``uncounted``."""

    def __init__(self):
        super().__init__()
        self.macs: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.scans: Counter[int] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.tracker = ModuleTracker()

    def __enter__(self) -> 'Count':
        self.tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        self.tracker.__exit__(*args)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, op = kwargs or {}, func.overloadpacket
        out = func(*args, **kwargs)
        if op not in RULES:
            self.uncounted[str(op)] += 1
            return out
        macs = RULES[op](out, *args, **kwargs)
        for module in self.tracker.parents:
            self.macs[module][str(op)] += macs
        if op is SCAN:
            self.scans[args[2].shape[1]] += _scanned(*args)
        return out

    def run(self, name: str, module: nn.Module, *inputs: object) -> object:
        """Call a module, its counts under ``name`` and, for what it holds, ``name.…``."""
        self.tracker._known_modules[module] = name
        return module(*inputs)


def count_module(module: nn.Module, *inputs: Tensor) -> Count:
    """Count one forward pass of any module. Module and inputs are on the CPU, or empty on the meta device."""
    with _without_values():
        if any(parameter.is_meta for parameter in module.parameters()):
            module.to_empty(device='cpu')
        with Count() as count:
            count.run('module', module, *(torch.empty(x.shape, dtype=x.dtype) for x in inputs))
    return count


@contextmanager
def _without_values() -> Iterator[None]:
    """Shapes alone are computed, and attention is written out."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        forget_orders()
        local_orders.cache_clear()


class _Part(NamedTuple):
    """Counts of a part of a model, its parameters by module, and the shapes of the maps that it returns."""

    count: Count
    params: dict[str, int]
    maps: list[tuple[int, ...]]


def count_complexity(cfg: Config, shape: tuple[int, int] | None = None, cache: dict | None = None) -> Complexity:
    """Count a configured model. No weights are loaded or downloaded, and no values are computed.

    Args:
        cfg: configuration of a detector, segmentor or classifier.
        shape: height and width in pixels; by default 800x1280 for detectors, 512x2048 for segmentors and 224x224 for
            classifiers.
        cache: counts of backbones and of necks with heads, by their configuration and input shapes. They are looked up
            and added. Share it between models.

    Raises:
        InputError: a shape that is not positive, a model that cannot run on it, or a detector whose heads cannot be
            counted: it has neither one of :data:`ROI_HEADS` nor one box head that reads maps alone.
    """
    task = task_of(cfg)
    shape = tuple(shape or SHAPES[task])
    if min(shape) < 1:
        raise InputError(f'--shape {shape[0]} {shape[1]}: expected positive height and width in pixels')
    if task == 'detection':
        _require_countable(cfg.model)
    cache = {} if cache is None else cache
    rest = {name: part for name, part in cfg.model.to_dict().items() if name not in ('backbone', 'data_preprocessor')}
    backbone = {key: value for key, value in cfg.model.backbone.items() if key not in WITHOUT_COST}
    key = _content(backbone, shape)
    if key not in cache:
        cache[key] = _count_part(cfg, _backbone, [(1, 3, *shape)])
    maps = cache[key].maps
    heads_key = _content(rest, maps)
    if heads_key not in cache:
        cache[heads_key] = _count_part(cfg, HEADS[task], maps)
    parts = (cache[key], cache[heads_key])
    params = {name: number for part in parts for name, number in part.params.items()}
    macs = {name: round(sum(counts.values())) for part in parts for name, counts in part.count.macs.items()}
    operators = sum((part.count.macs['Global'] for part in parts), Counter())
    total = round(sum(operators.values()))
    return Complexity(
        shape=shape,
        params={'total': sum(params.values()), **params},
        macs={'total': total, **{name: macs.get(name, 0) for name in params}},
        submodules={name: count for name, count in macs.items() if '.' in name},
        operators={name: round(count) for name, count in operators.items()},
        scans=dict(parts[0].count.scans + parts[1].count.scans),
        uncounted=dict(parts[0].count.uncounted + parts[1].count.uncounted),
    )


def _require_countable(model: dict) -> None:
    """Refuse a detector whose heads need more than maps, or regions of a known number."""
    if 'roi_head' in model:
        if model['roi_head']['type'] not in ROI_HEADS:
            raise InputError(f'model.roi_head.type={model["roi_head"]["type"]}: expected {" or ".join(ROI_HEADS)}')
    elif 'bbox_head' not in model or any(part in model for part in ('encoder', 'decoder', 'mask_head')):
        raise InputError(f'model.type={model["type"]}: expected a roi_head, or a bbox_head that reads maps alone')


def _count_part(cfg: Config, forward: Callable, shapes: list[tuple[int, ...]]) -> _Part:
    """Build the model and run the part of it that ``forward`` runs."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = build_without_values({**cfg.model, 'backbone': {**cfg.model.backbone, 'init_cfg': None}})
    with _without_values():
        for (
            module
        ) in model.modules():  # each once; the model's own to_empty fails on one that has two places, as in RTMDet
            module.to_empty(device='cpu', recurse=False)
        inputs = tuple(torch.empty(shape) for shape in shapes)
        with Count() as count:
            try:
                maps = forward(count, model, inputs)
            except RuntimeError as error:
                line = str(error).partition('\n')[0]
                raise InputError(f'the model cannot run on inputs of {shapes}: {line}') from error
    params = {
        name: _parameters(child)
        for name, child in model.named_children()
        if _parameters(child) and (name == 'backbone') == (forward is _backbone)
    }
    return _Part(count, params, [tuple(x.shape) for x in maps or ()])


def build_without_values(cfg: dict) -> nn.Module:
    """Build a model or a part of one in eval mode, without memory for parameters if its constructor allows that."""
    try:
        with shapes_alone():
            return MODELS.build(cfg).eval()
    except (RuntimeError, NotImplementedError):  # a constructor that reads a number out of a tensor
        return MODELS.build(cfg).eval()


def _backbone(count: Count, model: nn.Module, images: tuple[Tensor]) -> tuple[Tensor, ...]:
    return count.run('backbone', model.backbone, *images)


def _segmentor_heads(count: Count, model: nn.Module, maps: tuple[Tensor, ...]) -> None:
    if model.with_neck:
        maps = count.run('neck', model.neck, maps)
    count.run('decode_head', model.decode_head, maps)


def _classifier_head(count: Count, model: nn.Module, maps: tuple[Tensor, ...]) -> None:
    count.run('head', model.head, maps)


def _detector_heads(count: Count, model: nn.Module, maps: tuple[Tensor, ...]) -> None:
    """Run neck and heads. The numbers of proposals of box and mask head do not depend on data."""
    if model.with_neck:
        maps = count.run('neck', model.neck, maps)
    if not hasattr(model, 'roi_head'):
        count.run('bbox_head', model.bbox_head, maps)
        return
    count.run('rpn_head', model.rpn_head, maps)
    proposals = model.test_cfg.rpn.max_per_img
    heads = (('bbox', proposals), ('mask', min(proposals, MASKS)))
    for name, number in heads[: 1 + model.with_mask]:
        head = getattr(model.roi_head, f'{name}_head')
        extractor = getattr(model.roi_head, f'{name}_roi_extractor')
        before = Counter(count.macs['Global'])
        if isinstance(head, nn.ModuleList):  # one of each per stage of a cascade
            for stage, (member, reader) in enumerate(zip(head, extractor, strict=True)):
                count.run(f'roi_head.{name}_head.{stage}', member, _regions(reader, number))
        else:
            count.run(f'roi_head.{name}_head', head, _regions(extractor, number))
        count.macs['roi_head'].update(count.macs['Global'] - before)


HEADS = {'detection': _detector_heads, 'segmentation': _segmentor_heads, 'classification': _classifier_head}


def _regions(extractor: nn.Module, number: int) -> Tensor:
    """Regions [number, C, h, w] as an extractor cuts them out."""
    return torch.empty(number, extractor.out_channels, *extractor.roi_layers[0].output_size)


def _content(part: dict, shapes: object) -> str:
    return json.dumps([part, shapes], sort_keys=True, default=str)


def _parameters(module: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
