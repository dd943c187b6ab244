"""What the masks of a segmentation configuration mean to its pipelines, heads and metrics.

These findings depend on the whole configuration and on the labels that occur, so they are made anew at every run,
also if the files' own results come from the cache.
"""

from collections.abc import Iterator, Mapping, Sequence

from mmengine.registry import MODELS

from mmbackbones.datasets.check.report import DatasetReport, Fault, Findings
from mmbackbones.datasets.check.segmentation import TOP_LABEL, SegmentationSpec
from mmbackbones.datasets.check.specs import Place, Spec, loads_index_masks, transforms_of

Checked = Sequence[tuple[Place, DatasetReport]]


def label_findings(
    cfg: Mapping, split: str, places: Mapping[str, Sequence[Place]], reports: Mapping[Spec, DatasetReport]
) -> Findings:
    """Check the masks of one split against the configuration.

    Args:
        cfg: The whole configuration.
        split: ``train``, ``val`` or ``test``.
        places: Data sets of this split and of the others that are checked.
        reports: Results of the check of this split's files.
    """
    found = Findings()
    checked = [(place, reports[place.spec]) for place in places[split] if isinstance(place.spec, SegmentationSpec)]
    for place, _ in checked:
        _check_pipeline(place, cfg.get('default_scope'), found)
    if split == 'train':
        _check_losses(cfg, found)
    else:
        trained = [place for place in places.get('train', ()) if isinstance(place.spec, SegmentationSpec)]
        _check_zero_labels(checked, trained, found)
    if not any(report.faults for _, report in checked) and all(place.spec.seg_dir for place, _ in checked):
        _check_ignored(cfg, split, checked, found)
        if len(checked) == len(places[split]):  # else a data set of another type may have the other classes
            _check_classes(split, checked, found)
    return found


def _check_pipeline(place: Place, scope: str | None, found: Findings) -> None:
    spec = place.spec
    for key, transform, cls in transforms_of(place.dataset.get('pipeline'), scope):
        if not loads_index_masks(cls):
            continue
        if spec.seg_dir is None:
            detail = f'{key} ({cls.__name__}) loads masks, but data_prefix.seg_map_path is not set'
            found.faults.append(Fault(place.key, 'pipeline', detail))
        asked = transform.get('reduce_zero_label')
        if asked is not None and bool(asked) != spec.reduce_zero_label:
            detail = (
                f'{key}.reduce_zero_label={asked} ({cls.__name__}), but reduce_zero_label={spec.reduce_zero_label} '
                f'for the data set {spec} itself: mmseg requires both to be equal'
            )
            found.faults.append(Fault(place.key, 'reduce_zero_label', detail))
    if spec.seg_dir and spec.mask_backend is None:
        detail = 'the pipeline loads the masks with a transform of its own; their labels are not checked'
        found.notes.append(Fault(spec.seg_dir, 'pipeline', detail))


def _check_losses(cfg: Mapping, found: Findings) -> None:
    for key, head in _heads(cfg):
        channels = head.get('out_channels') or head.get('num_classes')
        losses = head.get('loss_decode', dict(type='CrossEntropyLoss'))
        losses = [losses] if isinstance(losses, Mapping) else losses
        if channels != 1 or not any(_is_softmax(loss) for loss in losses):
            continue
        name = 'out_channels' if head.get('out_channels') else 'num_classes'
        detail = (
            'softmax cross-entropy over one class is 0 whatever is predicted, so nothing is learnt: name the '
            'background as a second class, or set num_classes=2, out_channels=1 and loss_decode.use_sigmoid=True'
        )
        found.faults.append(Fault(f'{key}.{name}=1', 'one class', detail))


def _is_softmax(loss: Mapping) -> bool:
    softmax = not loss.get('use_sigmoid') and not loss.get('use_mask')
    return softmax and _name(loss.get('type')) == 'CrossEntropyLoss'


def _name(kind: object) -> str:
    """Name of a type, which is a class or a name with or without a scope."""
    return kind.rsplit('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _heads(cfg: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The heads that classify pixels, with their keys."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    model = cfg.get('model') or {}
    model = model.get('module', model)
    for name in ('decode_head', 'auxiliary_head'):
        heads = model.get(name) or []
        single = isinstance(heads, Mapping)
        for index, head in enumerate([heads] if single else heads):
            kind = head.get('type')
            with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
                cls = registry.get(kind) if isinstance(kind, str) else kind
            if isinstance(cls, type) and issubclass(cls, BaseDecodeHead):
                yield f'model.{name}' if single else f'model.{name}[{index}]', head


def _check_zero_labels(checked: Checked, trained: Sequence[Place], found: Findings) -> None:
    known = {place.spec.reduce_zero_label for place in trained}
    for place, report in checked:
        reduce = place.spec.reduce_zero_label
        if not known or reduce in known:
            continue
        detail = (
            f'reduce_zero_label={reduce}, but reduce_zero_label={not reduce} for {trained[0].key}: equal labels of '
            'their masks mean different classes'
        )
        # Masks that hold the last class as their highest label do count from 1; the others may count from 0.
        counts_from_one = reduce and place.spec.num_labels in report.labels
        (found.warnings if counts_from_one else found.faults).append(Fault(place.key, 'reduce_zero_label', detail))


def _check_ignored(cfg: Mapping, split: str, checked: Checked, found: Findings) -> None:
    """Labels that are no class must be ignored by every loss and metric."""
    readers = list(_heads(cfg)) if split == 'train' else list(_metrics(cfg, split))
    for place, report in checked:
        spec = place.spec
        if not spec.classes:
            continue
        no_class = {label for label in map(spec.loaded, report.labels) if label >= len(spec.classes)}
        for key, reader in readers:
            wrong = sorted(no_class - {reader.get('ignore_index', TOP_LABEL)})
            if wrong:
                detail = f'holds the label {wrong[0]}, which is no class and is not {key}.ignore_index'
                found.faults.append(Fault(spec.seg_dir, 'label', f'{detail}={reader.get("ignore_index", TOP_LABEL)}'))


def _metrics(cfg: Mapping, split: str) -> Iterator[tuple[str, Mapping]]:
    evaluators = cfg.get(f'{split}_evaluator') or []
    single = isinstance(evaluators, Mapping)
    for index, evaluator in enumerate([evaluators] if single else evaluators):
        if _name(evaluator.get('type')).endswith('IoUMetric') and not evaluator.get('format_only'):
            yield f'{split}_evaluator' if single else f'{split}_evaluator[{index}]', evaluator


def _check_classes(split: str, checked: Checked, found: Findings) -> None:
    """Classes that occur in no mask of the split, all of its data sets taken together."""
    specs = [place.spec for place, _ in checked]
    if not specs or any(spec.mask_backend is None or not spec.classes for spec in specs):
        return
    classes = list(dict.fromkeys(name for spec in specs for name in spec.classes))
    pixels = dict.fromkeys(classes, 0)
    for place, report in checked:
        for label, count in report.labels.items():
            name = place.spec.class_of(label)
            if name is not None:
                pixels[name] += count
    absent = [name for name in classes if not pixels[name]]
    where, hints, training = specs[0].seg_dir, _hints(checked), split == 'train'
    purpose = 'learnt' if training else 'scored'
    # Fewer images than classes are a sample; not every class is to be expected there.
    sample = sum(report.images for _, report in checked) < len(classes)
    if len(absent) == len(classes):
        group, detail = (
            found.faults if training else found.warnings,
            f'no mask holds a class: nothing can be {purpose}{hints}',
        )
    elif len(classes) == 1:
        group, detail = found.warnings, f'{_quoted(classes)} is the only class: every labelled pixel is of it'
    elif len(absent) == len(classes) - 1:
        (only,) = set(classes) - set(absent)
        group = found.faults if training and not sample else found.warnings
        detail = (
            f'only the class "{only}" occurs in the masks, so nothing can be {purpose}; not: {_quoted(absent)}{hints}'
        )
    elif absent:
        group = found.notes if sample else found.warnings
        detail = f'{len(absent)} of {len(classes)} classes occur in no mask and cannot be {purpose}: {_quoted(absent)}'
        detail += hints
    else:
        return
    group.append(Fault(where, 'class', detail))


def _hints(checked: Checked) -> str:
    """Clauses on the labels, for a reader who wonders where a class is."""
    labels: dict[int, int] = {}
    for _, report in checked:
        for label, count in report.labels.items():
            labels[label] = labels.get(label, 0) + count
    shown = ', '.join(map(str, sorted(labels)[:8])) + (', …' if len(labels) > 8 else '')
    clauses = [f'; the masks hold the labels {shown}']
    if TOP_LABEL in labels:
        clauses.append(f', of which {TOP_LABEL} is ignored')
    spec: SegmentationSpec = checked[0][0].spec
    if spec.reduce_zero_label and 0 in labels and spec.num_labels not in labels:
        share = labels[0] / sum(labels.values())
        clauses.append(f'; reduce_zero_label=True ignores the label 0 ({share:.0%} of the pixels): is it a class?')
    return ''.join(clauses)


def _quoted(names: Sequence[str]) -> str:
    shown = ', '.join(f'"{name}"' for name in names[:5])
    return shown + (f' and {len(names) - 5} more' if len(names) > 5 else '')
