"""Look for faults in a data set before a run: all of them, cheaply, and once.

Known are mmdet's ``CocoDataset`` and mmseg's ``BaseSegDataset`` with every class that reads its files as these do; the
frameworks themselves resolve prefixes, suffixes and classes. A data set of another type is skipped with a note.

A clean result is cached in ``$XDG_CACHE_HOME/mmbackbones/datasets`` (default ``~/.cache``) for as long as names,
sizes and times of all files stay the same.
"""

import dataclasses
import filecmp
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.drop import without_faults
from mmbackbones.datasets.check.files import Fault, Findings, stamp, write_atomically
from mmbackbones.datasets.check.segmentation import SegmentationSpec
from mmbackbones.errors import InputError

Spec = CocoSpec | SegmentationSpec
CHECK_VERSION = 1  # raise it when the check learns to find more: what is cached is then checked again
SPLITS = ('train', 'val', 'test')
DROPPED = 'data_dropped.json'


@dataclasses.dataclass
class DatasetReport(Findings):
    """Outcome for one data set.

    ``faults`` stop a run; ``warnings`` tell what the framework drops by itself. ``fingerprint`` identifies the
    content (annotation bytes, names and sizes of the files), whatever the folder it lies in.
    """

    name: str = ''
    full: bool = False
    cached: bool = False
    seconds: float = 0.0

    def require_clean(self) -> None:
        """Raise InputError if there is a fault."""
        _require_clean([self])


def check_dataset(
    dataset: Mapping, full: bool = False, cache: bool = True, default_scope: str | None = None
) -> DatasetReport | None:
    """Check one data set.

    Args:
        dataset: Its configuration, as in ``train_dataloader.dataset``; no wrapper.
        full: Decode every image and every object's mask as well.
        cache: Take an earlier clean result for unchanged files, and keep this one.
        default_scope: Scope of a type named without one, such as ``mmdet``; None for the current one.

    Returns:
        All that was found, or None for a type that the check does not know.

    Raises:
        InputError: the framework refuses the configuration itself.
    """
    spec = _spec(dataset, default_scope)
    return None if spec is None else _check(spec, full, cache)


def data_fingerprint(dataset: Mapping, cache: bool = True, default_scope: str | None = None) -> str:
    """The ``fingerprint`` that :func:`check_dataset` reports, without looking for faults; empty if there is none."""
    spec = _spec(dataset, default_scope)
    return '' if spec is None else _fingerprint(spec, cache)


def inspect_config(
    cfg: Mapping, splits: Sequence[str] = SPLITS, full: bool = False, cache: bool = True
) -> dict[str, list[DatasetReport]]:
    """Check every data set of a configuration, each once; never raises for faults in the data.

    Data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset`` are found. The annotation file of a COCO
    evaluator must be the one of its data set, too.

    Returns:
        Split -> reports, one for each data set.
    """
    done: dict[Spec, DatasetReport] = {}
    reports: dict[str, list[DatasetReport]] = {}
    for split in splits:
        specs = _specs(cfg, split)
        for spec in specs:
            if spec not in done:
                done[spec] = _check(spec, full, cache)
        reports[split] = [done[spec] for spec in specs]
        strays = _evaluator_faults(cfg, split, specs)
        if strays:
            first = reports[split][0]
            reports[split][0] = dataclasses.replace(first, faults=first.faults + strays)
    return reports


def check_config(
    cfg: Mapping,
    splits: Sequence[str] = SPLITS,
    full: bool = False,
    cache: bool = True,
    json_file: str | Path | None = None,
    drop_dir: str | Path | None = None,
) -> dict[str, str]:
    """Stop a run whose data has faults, and identify the data.

    With ``data_check=False`` in the configuration the search for faults is left out; ``data_check='full'`` is ``full``.
    ``data_check='drop'`` leaves what has a fault out of the training data: ``cfg`` then names the annotation files that
    remain. Faults of the data for validation and test stop the run all the same, as scores without some of the images
    compare with nobody's.

    Args:
        cfg: A whole configuration.
        splits: Of its ``{split}_dataloader`` keys.
        full: See :func:`check_dataset`.
        cache: See :func:`check_dataset`.
        json_file: Where to write all reports if there is a fault.
        drop_dir: Folder for the annotation files that remain, ``data_kept_0.json`` and so on, and for
            ``data_dropped.json``, which lists what was left out and why.

    Returns:
        Split -> fingerprint, empty where no data set of the split is known.

    Raises:
        InputError: one line that names the first file at fault and the number of others.
    """
    wanted = cfg.get('data_check', True)
    if wanted not in (True, False, 'full', 'drop'):
        raise InputError(f'data_check={wanted!r}: True, False, "full" or "drop" was expected')
    if wanted is False:
        print_log('data_check=False: the data is not checked', logger='current')
        return {split: _join([_fingerprint(spec, cache) for spec in _specs(cfg, split)]) for split in splits}
    if wanted == 'drop' and 'train' in splits:
        if drop_dir is None:
            raise InputError('data_check="drop": for trainings only')
        _drop(cfg, Path(drop_dir), cache)
    reports = inspect_config(cfg, splits, full or wanted == 'full', cache)
    distinct = [report for report, _ in _distinct(reports)]
    if json_file and any(report.faults for report in distinct):
        write_json(reports, json_file)
    _require_clean(distinct, where=f'all of them are in {json_file}' if json_file else None)
    for report in distinct:
        if report.warnings and not report.cached:
            print_log(
                f'Data check: {report.name} has {len(report.warnings)} flaws that do not stop a run; the first: '
                f'{report.warnings[0]}',
                logger='current',
            )
    return {split: _join([report.fingerprint for report in group]) for split, group in reports.items()}


def share_annotation_files(cfg: Mapping) -> None:
    """Give every process the annotation files that ``data_check='drop'`` has put into the first one's ``cfg``."""
    if cfg.get('data_check') != 'drop':
        return
    leaves = list(_leaves(cfg.get('train_dataloader')))
    files = [leaf.get('ann_file', '') for leaf in leaves]
    broadcast_object_list(files)
    for leaf, file in zip(leaves, files):
        leaf['ann_file'] = file


def render(reports: Mapping[str, Sequence[DatasetReport]], max_rows: int = 50) -> Iterator[str | Table]:
    """What :func:`inspect_config` found, for ``rich``: a line for each data set, then a table of what is wrong."""
    for report, splits in _distinct(reports):
        verdict = 'clean' if not report.faults else f'[bold red]{len(report.faults)} faults[/]'
        yield (
            f'{", ".join(splits)}: [bold]{escape(report.name)}[/]: {report.images} images, {report.annotations} '
            f'annotations, {verdict}, {len(report.warnings)} warnings, fingerprint {report.fingerprint or "none"} '
            f'({report.seconds:.1f} s{", cached" if report.cached else ""})'
        )
        rows = [('fault', fault) for fault in report.faults] + [('warning', warning) for warning in report.warnings]
        if not rows:
            continue
        table = Table('level', 'kind', Column('file', overflow='fold'), Column('what is wrong', overflow='fold'))
        for level, fault in rows[:max_rows]:
            table.add_row(level, fault.kind, *(Text(text.replace('\n', '\\n')) for text in (fault.file, fault.detail)))
        if len(rows) > max_rows:
            table.add_row('', '', '', f'and {len(rows) - max_rows} more: --json FILE lists all')
        yield table


def write_json(reports: Mapping[str, Sequence[DatasetReport]], path: str | Path) -> None:
    """Write everything that :func:`inspect_config` found."""
    content = {split: [_plain(report) for report in group] for split, group in reports.items()}
    write_atomically(Path(path), json.dumps(content, indent=1))


def _distinct(reports: Mapping[str, Sequence[DatasetReport]]) -> list[tuple[DatasetReport, list[str]]]:
    """Each report once, with the splits that use it."""
    found: list[tuple[DatasetReport, list[str]]] = []
    for split, group in reports.items():
        for report in group:
            splits = next((splits for known, splits in found if known == report), None)
            if splits is None:
                found.append((report, [split]))
            else:
                splits.append(split)
    return found


def _plain(report: DatasetReport) -> dict:
    return dict(
        dataclasses.asdict(report),
        faults=[fault._asdict() for fault in report.faults],
        warnings=[fault._asdict() for fault in report.warnings],
    )


def _require_clean(reports: Sequence[DatasetReport], where: str | None = None) -> None:
    faults = list(dict.fromkeys(fault for report in reports for fault in report.faults))
    if not faults:
        return
    rest = ''
    if len(faults) > 1:
        files = len({fault.file for fault in faults})
        where = where or 'tools/analysis/check_dataset.py CONFIG lists them'
        rest = f' (and {len(faults) - 1} more faults, {files} files in all; {where})'
    raise InputError(f'{faults[0]}{rest}')


def _drop(cfg: Mapping, folder: Path, cache: bool) -> None:
    """Images are decoded, too: what is trained without shall be all that cannot be used."""
    everything = {}
    for number, leaf in enumerate(_leaves(cfg.get('train_dataloader'))):
        spec = _spec(leaf, cfg.get('default_scope'))
        if spec is None:
            continue
        suffix = 'json' if isinstance(spec, CocoSpec) else 'txt'
        rest, dropped, counts = without_faults(
            spec, folder / f'data_kept_{number}.{suffix}', lambda spec: _check(spec, True, cache).faults
        )
        if not dropped:
            continue
        leaf['ann_file'] = rest.ann_file
        everything[str(spec)] = dict(
            kept=rest.ann_file,
            counts=counts,
            dropped=[dict(file=fault.file, kind=fault.kind, detail=fault.detail) for fault in dropped],
        )
        what = ', '.join(f'{kind}: {count}' for kind, count in sorted(counts.items()))
        print_log(
            f'data_check="drop": {spec}: left out of the training ({what}), all in {folder / DROPPED}; '
            f'the first: {dropped[0]}',
            logger='current',
            level=logging.WARNING,
        )
    write_atomically(folder / DROPPED, json.dumps(everything, indent=1))


def _join(fingerprints: list[str]) -> str:
    if len(fingerprints) == 1 or not all(fingerprints):
        return fingerprints[0] if len(fingerprints) == 1 else ''
    return hashlib.sha256(' '.join(fingerprints).encode()).hexdigest()[:16] if fingerprints else ''


def _specs(cfg: Mapping, split: str) -> list[Spec]:
    """The known data sets of a split, in order."""
    specs = [_spec(dataset, cfg.get('default_scope')) for dataset in _leaves(cfg.get(f'{split}_dataloader'))]
    return [spec for spec in specs if spec is not None]


def _leaves(node: object) -> Iterator[Mapping]:
    """Data sets below a loader or a wrapper: what has a type and neither ``dataset`` nor ``datasets``."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        for item in node:
            yield from _leaves(item)
    elif isinstance(node, Mapping):
        inner = [node[key] for key in ('dataset', 'datasets') if key in node]
        if inner:
            for item in inner:
                yield from _leaves(item)
        elif 'type' in node:
            yield node


def _evaluator_faults(cfg: Mapping, split: str, specs: list[Spec]) -> list[Fault]:
    evaluators = cfg.get(f'{split}_evaluator') or []
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    own = [spec.ann_file for spec in specs if isinstance(spec, CocoSpec)]
    faults = []
    for path in [evaluator.get('ann_file') for evaluator in evaluators if isinstance(evaluator, Mapping)]:
        if not path or not own or os.path.abspath(path) in map(os.path.abspath, own):
            continue
        if not os.path.isfile(path):
            faults.append(Fault(path, 'evaluator', f'no such annotation file; it is {split}_evaluator.ann_file'))
        elif not any(os.path.isfile(file) and filecmp.cmp(path, file, shallow=False) for file in own):
            faults.append(
                Fault(path, 'evaluator', f'is {split}_evaluator.ann_file, but the {split} data set reads {own[0]}')
            )
    return faults


def _spec(dataset: Mapping, default_scope: str | None) -> Spec | None:
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
    return make(built, dataset)


def _reader_of(cls: type) -> Callable[[object, Mapping], Spec] | None:
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
    return None


def _coco_spec(built, dataset: Mapping) -> CocoSpec:
    if not built.ann_file:
        raise InputError(f'data set {dataset["type"]} of {dataset.get("data_root", "")}: ann_file is not set')
    return CocoSpec(
        ann_file=built.ann_file,
        img_dir=built.data_prefix.get('img') or '.',
        classes=tuple(built.metainfo['classes']),
        need_objects=not built.test_mode,
        need_masks='pipeline' not in dataset or _loads_masks(dataset['pipeline']),
    )


def _loads_masks(node: object) -> bool:
    if isinstance(node, Mapping):
        return bool(node.get('with_mask')) or any(_loads_masks(value) for value in node.values())
    return isinstance(node, Sequence) and not isinstance(node, str) and any(_loads_masks(value) for value in node)


def _segmentation_spec(built, dataset: Mapping) -> SegmentationSpec:
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
    )


def _check(spec: Spec, full: bool, cache: bool) -> DatasetReport:
    start = time.perf_counter()
    state = stamp(spec.paths) if cache else None
    report = _recall(spec, state).get('report')
    if report is None or full > report.full:
        report = DatasetReport(**vars(spec.check(full)), name=str(spec), full=full)
        # A faulty result is not kept: what hides a file for a moment leaves no trace in sizes and times.
        if not report.faults:
            _keep(spec, dict(stamp=state, fingerprint=report.fingerprint, report=_plain(report)))
    report.seconds = round(time.perf_counter() - start, 3)
    return report


def _fingerprint(spec: Spec, cache: bool) -> str:
    state = stamp(spec.paths) if cache else None
    entry = _recall(spec, state)
    if not entry:
        entry = dict(stamp=state, fingerprint=spec.fingerprint(), report=None)
        _keep(spec, entry)
    return entry['fingerprint']


def _cache_file(spec: Spec) -> Path:
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    paths = {os.path.abspath(path) for path in spec.paths}
    key = hashlib.sha256(repr((CHECK_VERSION, sorted(paths), spec)).encode(errors='surrogatepass')).hexdigest()[:32]
    return Path(root, 'mmbackbones', 'datasets', f'{key}.json')


def _recall(spec: Spec, state: str | None) -> dict:
    if state is None:
        return {}
    try:
        entry = json.loads(_cache_file(spec).read_bytes())
        if entry['stamp'] != state:
            return {}
        if entry['report'] is not None:
            warnings = [
                Fault(**dict(warning, item=warning['item'] and tuple(warning['item'])))
                for warning in entry['report']['warnings']
            ]
            entry['report'] = DatasetReport(**dict(entry['report'], warnings=warnings, cached=True))
        return dict(entry, fingerprint=str(entry['fingerprint']))
    except (OSError, ValueError, KeyError, TypeError):  # absent, damaged, or of another make
        return {}


def _keep(spec: Spec, entry: dict) -> None:
    if entry['stamp'] is None:
        return
    try:
        write_atomically(_cache_file(spec), json.dumps(entry))
    except OSError as error:
        print_log(f'Data check: its result cannot be cached ({error})', logger='current')
