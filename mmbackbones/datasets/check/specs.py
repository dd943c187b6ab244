"""Data sets of a configuration, and the parts of their configuration that the check needs.

The frameworks themselves resolve prefixes, suffixes and classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS

from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.image_folder import ImageFolderSpec
from mmbackbones.datasets.check.image_reader import ImageReader
from mmbackbones.datasets.check.origins import known_type
from mmbackbones.datasets.check.segmentation import SegmentationSpec
from mmbackbones.errors import InputError

Spec = CocoSpec | SegmentationSpec | ImageFolderSpec


class Place(NamedTuple):
    """A data set in a configuration.

    Attributes:
        key (str): its key, such as ``train_dataloader.dataset``.
        dataset (Mapping): its configuration.
        spec (Spec | None): what the framework makes of it; None for an unsupported type.
    """

    key: str
    dataset: Mapping
    spec: Spec | None


def places_of(cfg: Mapping, split: str) -> list[Place]:
    """The data sets of a split, in order."""
    key, scope, evaluators = f'{split}_dataloader', cfg.get('default_scope'), cfg.get(f'{split}_evaluator') or []
    found = [(where, dataset, spec_of(dataset, scope)) for where, dataset in _below(cfg.get(key), key)]
    return [Place(where, dataset, spec and _as_evaluated(spec, evaluators)) for where, dataset, spec in found]


def specs_of(cfg: Mapping, split: str) -> list[Spec]:
    """The supported data sets of a split, in order."""
    return [place.spec for place in places_of(cfg, split) if place.spec is not None]


def datasets_below(node: object) -> Iterator[Mapping]:
    """Data sets in a loader or wrapper: every dict with a type and without ``dataset`` and ``datasets``."""
    for _, dataset in _below(node, ''):
        yield dataset


def _below(node: object, key: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, item in enumerate(node):
            yield from _below(item, f'{key}[{index}]')
    elif isinstance(node, Mapping):
        inner = [name for name in ('dataset', 'datasets') if name in node]
        for name in inner:
            yield from _below(node[name], f'{key}.{name}')
        if not inner and 'type' in node:
            yield key, node


def spec_of(dataset: Mapping, default_scope: str | None) -> Spec | None:
    """What the framework makes of a data set's configuration, without reading any annotation."""
    kind = dataset['type']
    with DATASETS.switch_scope_and_registry(default_scope) as registry:
        cls = registry.get(kind) if isinstance(kind, str) else kind
        make = _reader_of(cls) if isinstance(cls, type) else None
        if make is None or dataset.get('backend_args'):
            reason = 'its files are not local' if make else 'the check does not know this type'
            print_log(f'Data check: {kind} is skipped, {reason}', logger='current')
            return None
        try:
            built = registry.build(dict(dataset, type=cls, lazy_init=True, pipeline=[]))
        except Exception as error:  # constructors raise what they like; the Runner would meet the same
            reason = ' '.join(str(error).split())
            raise InputError(f'data set {kind} of {dataset.get("data_root", "")}: {reason}') from error
    classes = built.metainfo.get('classes')
    if isinstance(classes, str):  # ('object') is a text, and its letters would be the classes
        raise InputError(
            f'data set {kind} of {dataset.get("data_root", "")}: metainfo.classes={classes!r} is a text, a list of '
            'names was expected: one class is written ("name",), with a comma'
        )
    return make(built, dataset, default_scope)


def _reader_of(cls: type) -> Callable[[object, Mapping, str | None], Spec | None] | None:
    import mmdet.datasets
    import mmseg.datasets

    coco, segmentation = mmdet.datasets.CocoDataset, mmseg.datasets.BaseSegDataset
    # Subclasses that read other files, or read them otherwise, have a say of their own.
    if issubclass(cls, coco) and all(
        getattr(cls, name) is getattr(coco, name) for name in ('load_data_list', 'parse_data_info')
    ):
        return _coco_spec
    if issubclass(cls, segmentation) and cls.load_data_list is segmentation.load_data_list:
        return _segmentation_spec
    if any(base.__module__.partition('.')[0] == 'mmpretrain' for base in cls.__mro__):  # an optional part
        from mmpretrain.datasets import CustomDataset

        same = all(
            getattr(cls, name, None) is getattr(CustomDataset, name) for name in ('load_data_list', '_find_samples')
        )
        return _folder_spec if same else None
    return None


def _folder_spec(built, dataset: Mapping, default_scope: str | None) -> ImageFolderSpec | None:
    if not built.with_label:
        return None
    classes = built.metainfo.get('classes')
    return ImageFolderSpec(
        img_dir=built.img_prefix or '.',
        ann_file=built.ann_file or '',
        extensions=tuple(sorted(built.extensions)),
        num_classes=len(classes) if classes else None,
        reader=ImageReader.of(dataset.get('pipeline')),
    )


def _coco_spec(built, dataset: Mapping, default_scope: str | None) -> CocoSpec:
    if not built.ann_file:
        raise InputError(f'data set {dataset["type"]} of {dataset.get("data_root", "")}: ann_file is not set')
    pipeline = dataset.get('pipeline')
    masks = 'pipeline' not in dataset or _has(pipeline, 'with_mask', True)
    return CocoSpec(
        ann_file=built.ann_file,
        img_dir=built.data_prefix.get('img') or '.',
        classes=tuple(built.metainfo['classes']),
        need_objects=not built.test_mode,
        need_masks=masks,
        need_polygons=_has(pipeline, 'poly2mask', False),
        metrics=(('bbox', 'segm') if masks else ('bbox',)) if built.test_mode else (),
        scored=built.test_mode,
        min_size=0 if built.test_mode else (built.filter_cfg or {}).get('min_size', 0),
        reader=ImageReader.of(pipeline),
        kind=known_type(built),
    )


def _as_evaluated(spec: Spec, evaluators: Mapping | Sequence) -> Spec:
    """The data set with the demands of the evaluators, which read its annotation file on their own."""
    if not isinstance(spec, CocoSpec):
        return spec
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    scoring = [each for each in evaluators if isinstance(each, Mapping) and not each.get('format_only')]
    metrics = [each.get('metric', 'bbox') for each in scoring]
    names = {name for each in metrics for name in ([each] if isinstance(each, str) else each)}
    return replace(
        spec,
        need_masks=spec.need_masks or 'segm' in names,
        metrics=tuple(sorted(names)),
        scored=any(each.get('ann_file') for each in scoring),
    )


def _has(node: object, key: str, value: bool) -> bool:
    """Whether a step of a pipeline has this setting."""
    if isinstance(node, Mapping):
        return node.get(key) is value or any(_has(inner, key, value) for inner in node.values())
    return isinstance(node, Sequence) and not isinstance(node, str) and any(_has(inner, key, value) for inner in node)


def _segmentation_spec(built, dataset: Mapping, default_scope: str | None) -> SegmentationSpec:
    # With a label map the masks still hold the labels of the class's own, longer list.
    classes = type(built).METAINFO['classes'] if built.label_map else built.metainfo.get('classes')
    return SegmentationSpec(
        img_dir=built.data_prefix.get('img_path') or '.',
        seg_dir=built.data_prefix.get('seg_map_path') or None,
        ann_file=built.ann_file or '',
        img_suffix=built.img_suffix,
        seg_suffix=built.seg_map_suffix,
        num_labels=len(classes) if classes else None,
        reduce_zero_label=bool(built.reduce_zero_label),
        ignore_index=built.ignore_index,
        classes=tuple(built.metainfo.get('classes') or ()),
        label_map=tuple(sorted(built.label_map.items())) if built.label_map else None,
        reader=ImageReader.of(dataset.get('pipeline')),
        mask_backend=_mask_backend(dataset.get('pipeline'), default_scope),
        kind=known_type(built),
    )


def transforms_of(
    pipeline: object, default_scope: str | None, key: str = 'pipeline'
) -> Iterator[tuple[str, Mapping, type]]:
    """Key, configuration and class of every transform in a pipeline, also of those in wrappers."""
    if isinstance(pipeline, Sequence) and not isinstance(pipeline, str):
        for index, item in enumerate(pipeline):
            yield from transforms_of(item, default_scope, f'{key}[{index}]')
    elif isinstance(pipeline, Mapping):
        if 'type' in pipeline:
            with TRANSFORMS.switch_scope_and_registry(default_scope) as registry:
                kind = pipeline['type']
                cls = registry.get(kind) if isinstance(kind, str) else kind
            if isinstance(cls, type):
                yield key, pipeline, cls
        for name in ('transforms', 'pipeline'):
            if name in pipeline:
                yield from transforms_of(pipeline[name], default_scope, f'{key}.{name}')


def loads_index_masks(cls: type) -> bool:
    """Whether a transform reads masks as mmseg's ``LoadAnnotations`` does."""
    from mmseg.datasets.transforms import LoadAnnotations

    return issubclass(cls, LoadAnnotations) and cls._load_seg_map is LoadAnnotations._load_seg_map


def _mask_backend(pipeline: object, default_scope: str | None) -> str | None:
    """Image library that decodes the masks; None if a transform of another kind loads them."""
    from mmcv.transforms import LoadAnnotations

    for _, transform, cls in transforms_of(pipeline, default_scope):
        if loads_index_masks(cls):
            return transform.get('imdecode_backend', 'pillow')
        if issubclass(cls, LoadAnnotations) or 'Annotation' in cls.__name__:
            return None
    return 'pillow'
