"""The check of a COCO-style instance data set: one annotation file and a folder of images."""

import difflib
import hashlib
import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pycocotools import mask as mask_api

from mmbackbones.datasets.check.files import (
    Fault,
    Findings,
    digest,
    file_length,
    in_threads,
    missing_folder,
    probe_image,
)
from mmbackbones.errors import InputError

MAX_SIDE = 65535  # px; of a JPEG
_SHORT = reprlib.Repr()  # one line of bounded length and depth
_SHORT.maxlist, _SHORT.maxstring = 8, 60
_show = _SHORT.repr


@dataclass(frozen=True)
class CocoSpec:
    """What of a data set's configuration bears on the check.

    Args:
        ann_file: Annotation file.
        img_dir: Folder to which the file's names are relative.
        classes: Class names in the order of the labels.
        need_objects: Objects must be annotated (not so for test sets without annotations).
        need_masks: Every object must have a segmentation.
    """

    ann_file: str
    img_dir: str
    classes: tuple[str, ...]
    need_objects: bool = True
    need_masks: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders on which the outcome depends."""
        return self.ann_file, self.img_dir

    def __str__(self) -> str:
        return self.ann_file

    def fingerprint(self) -> str:
        """Digest of the annotation file's bytes and of its images' names and sizes; empty where it is malformed."""
        try:
            data, content = _load(self.ann_file)
        except InputError:
            return ''
        names = [record['file_name'] for record in _list(content.get('images')) if not _image_record_fault(record)]
        return digest(data, zip(names, in_threads(file_length, [self._image(name) for name in names], self.img_dir)))

    def check(self, full: bool) -> Findings:
        """Look at the annotations and at each image's size, header and end marker, with `full` at all pixels."""
        found = Findings()
        try:
            data, content = _load(self.ann_file)
        except InputError as error:
            detail = str(error).removeprefix(f'{self.ann_file}: ')
            found.faults.append(Fault(self.ann_file, 'annotation file', detail))
            return found
        if not os.path.isdir(self.img_dir):
            detail = f'no such folder of images{missing_folder(self.img_dir)}'
            found.faults.append(Fault(self.img_dir, 'image folder', detail))
        for key in ('images', 'annotations', 'categories'):
            if key == 'annotations' and key not in content and not self.need_objects:
                found.warnings.append(Fault(self.ann_file, 'annotation file', 'no annotations: nothing can be scored'))
            elif not isinstance(content.get(key), list) or not content[key]:
                state = 'missing' if key not in content else 'not a list' if content[key] else 'empty'
                found.faults.append(Fault(self.ann_file, 'annotation file', f'{key!r} is {state}'))
        category_ids = self._check_categories(_list(content.get('categories')), found)
        images, sizes = self._check_images(_list(content.get('images')), found, full)
        self._check_annotations(_list(content.get('annotations')), images, category_ids, found, full)
        found.fingerprint = digest(data, sizes)
        return found

    def without(self, items: set[tuple[str, int | str]]) -> bytes:
        """Content of an annotation file that lacks these items of this one."""
        _, content = _load(self.ann_file)
        for key in ('images', 'annotations'):
            if isinstance(content.get(key), list):
                content[key] = [item for index, item in enumerate(content[key]) if (key, index) not in items]
        return json.dumps(content).encode()

    def _image(self, name: str) -> str:
        return os.path.join(self.img_dir, name)

    def _check_categories(self, categories: list, found: Findings) -> set:
        def fault(kind: str, detail: str) -> None:
            found.faults.append(Fault(self.ann_file, kind, detail))

        names, ids = [], []
        for index, category in enumerate(categories):
            if isinstance(category, dict) and isinstance(category.get('name'), str) and _is_id(category.get('id')):
                names.append(category['name'])
                ids.append(category['id'])
            else:
                fault('category', f'categories[{index}] needs a "name" and an integer "id", not {_show(category)}')
        for what, values in (('name', names), ('id', ids)):
            for value, count in Counter(values).items():
                if count > 1:
                    fault('category', f'category {what} {_show(value)} occurs {count} times')
        missing = [name for name in self.classes if name not in names]
        if categories and missing:
            near = difflib.get_close_matches(missing[0], [name for name in names if name not in self.classes], n=1)
            hint = f'; did you mean {near[0]!r}?' if near else f'; the file has {_show(names)}'
            fault(
                'category',
                f"no category has the name of {len(missing)} of the data set's {len(self.classes)} "
                f'classes: {_show(missing)}{hint}',
            )
        in_file_order = [name for name in names if name in self.classes]
        if not missing and in_file_order != list(self.classes) and len(set(names)) == len(names):
            # mmdet numbers the labels in the file's order and names them in the configuration's.
            fault(
                'category',
                f"the file has the categories in the order {_show(in_file_order)}, the data set's "
                f'classes are {_show(list(self.classes))}: labels would get wrong names',
            )
        surplus = [name for name in names if name not in self.classes]
        if surplus and not missing:
            found.warnings.append(
                Fault(
                    self.ann_file,
                    'category',
                    f'{len(surplus)} categories are no class of the '
                    f'data set, their objects are dropped: {_show(surplus)}',
                )
            )
        return set(ids)

    def _check_images(self, records: list, found: Findings, full: bool) -> tuple[dict, list[tuple[str, int]]]:
        """Records by id; name and bytes of each file."""
        images, present = {}, []
        for index, record in enumerate(records):
            problem = _image_record_fault(record)
            if problem:
                found.faults.append(
                    Fault(self.ann_file, 'image record', f'images[{index}]: {problem}', ('images', index))
                )
                continue
            if record['id'] in images:
                detail = f'image id {_show(record["id"])} occurs twice'
                found.faults.append(Fault(self.ann_file, 'image record', detail, ('images', index)))
            images[record['id']] = record
            present.append((index, record))
        found.images = len(present)
        if not os.path.isdir(self.img_dir):
            return images, []
        paths = [self._image(record['file_name']) for _, record in present]
        probes = in_threads(lambda path: probe_image(path, decode=full), paths, self.img_dir)
        for (index, record), path, probe in zip(present, paths, probes):
            stated, item = (record['width'], record['height']), ('images', index)
            if probe.fault:
                found.faults.append(Fault(path, 'image', probe.fault, item))
            elif probe.size != stated:
                found.faults.append(
                    Fault(
                        path,
                        'image size',
                        f'is {probe.size[0]}x{probe.size[1]} px, but '
                        f'{self.ann_file} says {stated[0]}x{stated[1]} (width x height)',
                        item,
                    )
                )
        return images, [(record['file_name'], probe.bytes) for (_, record), probe in zip(present, probes)]

    def _check_annotations(
        self, annotations: list, images: dict, category_ids: set, found: Findings, full: bool
    ) -> None:
        seen = set()
        for index, annotation in enumerate(annotations):
            item = ('annotations', index)
            if not isinstance(annotation, dict) or not _is_id(annotation.get('id')):
                found.faults.append(
                    Fault(
                        self.ann_file,
                        'annotation',
                        f'annotations[{index}] needs an "id", not {_show(annotation)}',
                        item,
                    )
                )
                continue
            found.annotations += 1
            where = f'annotation {_show(annotation["id"])}'
            if annotation['id'] in seen:
                found.faults.append(Fault(self.ann_file, 'annotation', f'{where}: the id occurs twice', item))
            seen.add(annotation['id'])
            for kind, detail, is_fault in self._annotation_findings(annotation, images, category_ids, full):
                fault = Fault(self.ann_file, kind, f'{where}: {detail}', item)
                (found.faults if is_fault else found.warnings).append(fault)

    def _annotation_findings(
        self, annotation: dict, images: dict, category_ids: set, full: bool
    ) -> Iterator[tuple[str, str, bool]]:
        category, image = annotation.get('category_id'), annotation.get('image_id')
        if not _is_id(category) or category not in category_ids:
            yield 'unknown category', f"category_id {_show(category)} is not among the file's categories", True
        record = images.get(image) if _is_id(image) else None
        if record is None:
            yield 'unknown image', f"image_id {_show(image)} is not among the file's images", True
            return
        yield from _box_findings(annotation, record)
        problem = _segmentation_fault(annotation.get('segmentation'), record, self.need_masks)
        if problem:
            yield 'segmentation', problem, True
        elif full and annotation.get('segmentation'):
            yield from _mask_findings(annotation['segmentation'], record)


def _load(path: str) -> tuple[str, dict]:
    """SHA-256 of the file, and its content."""
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f'{path}: no such annotation file{missing_folder(path)}') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    if not data.strip():
        raise InputError(f'{path}: the annotation file is empty ({len(data)} bytes)')
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path}: malformed JSON: {error}') from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: a COCO annotation file is a JSON object, not a {type(content).__name__}')
    return hashlib.sha256(data).hexdigest(), content


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # neither NaN nor inf


def _is_file_name(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode()) and '\0' not in value
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can express
        return False


def _image_record_fault(record: object) -> str | None:
    if not isinstance(record, dict):
        return f'an object was expected, not {_show(record)}'
    if not _is_id(record.get('id')):
        return f'"id" is {_show(record.get("id"))}, an integer was expected'
    name = record.get('file_name')
    if not _is_file_name(name):
        return f'"file_name" is {_show(name)}, a file name was expected'
    for key in ('width', 'height'):
        value = record.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIDE:
            return f'"{key}" of {name} is {_show(value)}, pixels (1 to {MAX_SIDE}) were expected'
    return None


def _box_findings(annotation: dict, record: dict) -> Iterator[tuple[str, str, bool]]:
    box, area = annotation.get('bbox'), annotation.get('area')
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        yield 'box', f'bbox {_show(box)} is not four finite numbers', True
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        yield 'box', f'bbox {box} has a negative size', True
    elif width < 1 or height < 1:
        # Two boxes of COCO's own train2017 have height 0, so this must not stop a run.
        yield 'box', f'bbox {box} is smaller than a pixel; it is dropped', False
    elif x >= record['width'] or y >= record['height'] or x + width <= 0 or y + height <= 0:
        yield 'box', f'bbox {box} lies outside its image of {record["width"]}x{record["height"]} px', True
    elif x < -1 or y < -1 or x + width > record['width'] + 1 or y + height > record['height'] + 1:
        yield 'box', f'bbox {box} reaches beyond its image of {record["width"]}x{record["height"]} px', False
    if not _is_number(area) or area < 0:
        yield 'area', f'area is {_show(area)}, square pixels were expected', True
    elif area == 0:
        yield 'area', 'area is 0; the object is dropped', False


def _segmentation_fault(segmentation: object, record: dict, needed: bool) -> str | None:
    if not segmentation:
        return 'the segmentation is empty or missing' if needed else None
    if isinstance(segmentation, list):
        side = max(record['height'], record['width'])
        for polygon in segmentation:
            try:
                finite = isinstance(polygon, list) and math.isfinite(sum(polygon))
            except (TypeError, OverflowError):
                finite = False
            if not finite:
                return f'polygon {_show(polygon)} is not a list of finite numbers'
            if polygon and (min(polygon) < -side or max(polygon) > 2 * side):
                # Rasterising takes memory in proportion to the outline.
                return f'polygon {_show(polygon)} lies far outside its image of {record["width"]}x{record["height"]} px'
        if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
            return f'no polygon of three points or more in {_show(segmentation)}'
        return None
    if not isinstance(segmentation, dict):
        return f'the segmentation is {_show(segmentation)}, polygons or RLE were expected'
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if size != [record['height'], record['width']]:
        return f'RLE of size {_show(size)} on an image of [{record["height"]}, {record["width"]}] (height, width)'
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            return 'RLE counts are not whole numbers'
        if sum(counts) != record['height'] * record['width']:
            return f'RLE counts add up to {sum(counts)}, the image has {record["height"] * record["width"]} pixels'
    elif not isinstance(counts, str) or not counts:
        return f'RLE counts are {_show(counts)}'
    return None


def _mask_findings(segmentation: list | dict, record: dict) -> Iterator[tuple[str, str, bool]]:
    try:
        if isinstance(segmentation, list):
            segmentation = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not isinstance(segmentation, dict) or isinstance(segmentation['counts'], list):
            rles = mask_api.frPyObjects(segmentation, record['height'], record['width'])
            pixels = int(mask_api.area(mask_api.merge(rles) if isinstance(rles, list) else rles))
        else:
            pixels = int(mask_api.area(segmentation))
    except Exception as error:  # whatever the C code's wrapper makes of odd values
        yield 'segmentation', f'cannot be decoded: {" ".join(str(error).split())}', True
        return
    if pixels == 0:
        yield 'segmentation', 'decodes to no pixel', False
