"""Whether neck and heads take the maps of the backbone, found with maps that have no content."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbackbones.backbones.base import Backbone
from mmbackbones.engine.preflight.meta import MetaRun, Misfit, Untried
from mmbackbones.errors import InputError

Maps = tuple[Tensor, ...]
Note = tuple[int, str]  # level of the log, and sentence
WIDTH_KEYS = ('in_channels', 'embed_dim')  # of necks


def pass_maps(run: MetaRun, cfg: Mapping, images: int, size: tuple[int, int]) -> Iterator[Note]:
    """Pass the maps of a batch through neck and heads.

    Yields level and sentence: INFO for a part that could not be tried, WARNING for strides that differ from the maps'.

    Args:
        run (MetaRun): the model, watched.
        cfg (Mapping): its configuration, with the key ``backbone``.
        images (int): images of a batch.
        size (tuple[int, int]): height and width of the batch, in pixels.

    Raises:
        InputError: a part does not take what it gets. The message names its key and the channels.
    """
    model = run.model
    try:
        maps = _maps_of(run, model.backbone, torch.empty(images, 3, *size, device='meta'))
    except (Misfit, Untried) as reason:
        yield _untried('model.backbone', reason)
        return
    source = 'backbone'
    if getattr(model, 'neck', None) is not None:
        try:
            maps = _through_neck(run, cfg['neck'], maps)
        except Untried as reason:
            yield _untried('model.neck', reason)
            return
        source = 'neck'
    if not (isinstance(maps, list | tuple) and all(isinstance(one, Tensor) and one.dim() == 4 for one in maps)):
        return
    maps = tuple(maps)
    yield from _dense_heads(run, cfg, maps, source, size)
    if hasattr(model, 'roi_head'):
        yield from _roi_heads(run, cfg['roi_head'], maps, source)


def _untried(key: str, reason: Exception) -> Note:
    return logging.INFO, f'{key} was not tried with maps without content: {reason}'


def _maps_of(run: MetaRun, backbone: nn.Module, image: Tensor) -> Maps:
    if not isinstance(backbone, Backbone):
        return run(backbone, image)
    # Ours declare their maps, and a scan over tensors without content would take long.
    images, _, height, width = image.shape
    return tuple(
        image.new_empty(images, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(backbone.out_channels, backbone.out_strides)
    )


def _widths(maps: Sequence[Tensor]) -> list[int]:
    return [one.shape[1] for one in maps]


def _through_neck(run: MetaRun, neck: Mapping | Sequence, maps: Maps) -> Maps:
    try:
        return run(run.model.neck, maps)
    except Misfit as error:
        given = _widths(maps)
        name, first = ('model.neck', neck) if isinstance(neck, Mapping) else ('model.neck.0', neck[0])
        for key in WIDTH_KEYS:
            wanted = first.get(key)
            expected = given if isinstance(wanted, list | tuple) else given[-1]
            if wanted is not None and (list(wanted) if isinstance(wanted, list | tuple) else wanted) != expected:
                raise InputError(
                    f"{name}.{key}={wanted}, but the backbone's {len(given)} maps have {given} channels"
                ) from error
        raise _refusal('model.neck', error, given, 'backbone') from error


def _refusal(key: str, error: Misfit, given: list[int], source: str) -> InputError:
    where = f' (in {error.where})' if error.where else ''
    return InputError(f"{key} does not take the {source}'s {len(given)} maps of {given} channels: {error}{where}")


def _dense_heads(run: MetaRun, cfg: Mapping, maps: Maps, source: str, size: tuple[int, int]) -> Iterator[Note]:
    """The heads of a segmentor, and those of a detector that read whole maps."""
    for name in ('decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head', 'mask_head'):
        earlier: tuple = ()  # the second decoder of a cascade also gets the first one's result
        for key, head in _members(cfg, name, getattr(run.model, name, None)):
            try:
                out = run(head, maps, *earlier)
            except Misfit as error:
                raise _misfit_of_head(key, head, error, maps, source) from error
            except Untried as reason:
                yield _untried(key, reason)
                break
            if name == 'decode_head':
                earlier = (out,)
            yield from _levels(key, head, maps, source, size)


def _members(cfg: Mapping, name: str, part: nn.Module | None, prefix: str = 'model') -> Iterator[tuple[str, nn.Module]]:
    """Key and module of a head, or of each head of a list; one configuration may stand for a whole list."""
    if isinstance(part, nn.ModuleList):
        for i, member in enumerate(part):
            yield (f'{prefix}.{name}.{i}' if isinstance(cfg.get(name), list | tuple) else f'{prefix}.{name}'), member
    elif part is not None:
        yield f'{prefix}.{name}', part


def _misfit_of_head(key: str, head: nn.Module, error: Misfit, maps: Maps, source: str) -> InputError:
    given, wanted = _widths(maps), getattr(head, 'in_channels', None)
    indices = getattr(head, 'in_index', None)
    if indices is not None:
        listed = [indices] if isinstance(indices, int) else list(indices)
        if any(not -len(given) <= i < len(given) for i in listed):
            return InputError(f'{key}.in_index={indices}, but the {source} gives {len(given)} maps')
        chosen = [given[i] for i in listed]
        if wanted != chosen[0] if isinstance(indices, int) else wanted not in (sum(chosen), chosen, tuple(chosen)):
            return InputError(
                f"{key}.in_channels={wanted}, but the {source}'s maps of in_index={indices} have {chosen} channels"
            )
    elif isinstance(wanted, int) and set(given) != {wanted}:
        return InputError(f"{key}.in_channels={wanted}, but the {source}'s {len(given)} maps have {given} channels")
    return _refusal(key, error, given, source)


def _levels(key: str, head: nn.Module, maps: Maps, source: str, size: tuple[int, int]) -> Iterator[Note]:
    """Anchors or points are laid out for every map, and mmdet asserts it without a word."""
    generator = getattr(head, 'prior_generator', None)
    if generator is None or not hasattr(generator, 'num_levels'):
        return
    strides = [stride[0] if isinstance(stride, list | tuple) else stride for stride in generator.strides]
    if len(strides) != len(maps):
        raise InputError(
            f'{key}: its anchors have {len(strides)} strides, {strides}, but the {source} gives {len(maps)} maps'
            f'{" (model.neck.num_outs)" if source == "neck" else ""}'
        )
    found = [size[1] // one.shape[-1] for one in maps]
    if found != strides and all(size[1] % stride == 0 for stride in strides):
        yield logging.WARNING, f"{key}: its anchors have the strides {strides}, but the {source}'s maps have {found}"


def _roi_heads(run: MetaRun, cfg: Mapping, maps: Maps, source: str) -> Iterator[Note]:
    """The heads of a two-stage detector that read regions of the maps."""
    roi_head = run.model.roi_head
    for kind in ('bbox', 'mask'):
        heads = list(_members(cfg, f'{kind}_head', getattr(roi_head, f'{kind}_head', None), 'model.roi_head'))
        name = f'{kind}_roi_extractor' if hasattr(roi_head, f'{kind}_roi_extractor') else 'bbox_roi_extractor'
        extractors = list(_members(cfg, name, getattr(roi_head, name, None), 'model.roi_head'))
        if len(extractors) == 1:
            extractors *= len(heads)
        for (key, head), (extractor_key, extractor) in zip(heads, extractors):
            width, layers = getattr(extractor, 'out_channels', None), getattr(extractor, 'roi_layers', None)
            if type(extractor).__name__ != 'SingleRoIExtractor' or not layers:
                continue
            given = _widths(maps[: len(layers)])
            if set(given) != {width}:
                raise InputError(f"{extractor_key}.out_channels={width}, but the {source}'s maps have {given} channels")
            regions = torch.empty(2, width, *layers[0].output_size, device='meta')
            try:
                out = run(head, regions)
            except Misfit as error:
                raise _misfit_of_region_head(key, head, error, extractor_key, regions) from error
            except Untried as reason:
                yield _untried(key, reason)
                continue
            if kind == 'mask':
                _require_mask_size(run.model, key, out)


def _misfit_of_region_head(key: str, head: nn.Module, error: Misfit, extractor: str, regions: Tensor) -> InputError:
    width, wanted = regions.shape[1], getattr(head, 'in_channels', None)
    if isinstance(wanted, int) and wanted != width:
        return InputError(f'{key}.in_channels={wanted}, but {extractor} gives {width} channels')
    size, cells = getattr(head, 'roi_feat_size', None), tuple(regions.shape[2:])
    if size is not None and (tuple(size) if isinstance(size, list | tuple) else (size, size)) != cells:
        return InputError(f'{key}.roi_feat_size={size}, but {extractor}.roi_layer gives {cells[0]}x{cells[1]} cells')
    return _refusal(key, error, [width], extractor)


def _require_mask_size(model: nn.Module, key: str, masks: object) -> None:
    rcnn = (getattr(model, 'train_cfg', None) or {}).get('rcnn') or {}
    sizes = {step.get('mask_size') for step in (rcnn if isinstance(rcnn, list | tuple) else [rcnn])} - {None}
    if isinstance(masks, Tensor) and len(sizes) == 1 and masks.shape[-1] not in sizes:
        raise InputError(
            f'model.train_cfg.rcnn.mask_size={sizes.pop()}, but {key} gives masks of {masks.shape[-1]} cells a side'
        )
