"""The check of a COCO-style instance data set: one annotation file and a folder of images."""

import difflib
import json
import os
from collections import Counter
from dataclasses import dataclass

from mmbackbones.datasets.check.coco_file import read_annotations
from mmbackbones.datasets.check.coco_overview import Overview
from mmbackbones.datasets.check.coco_records import annotation_findings, image_record_fault, is_id, show
from mmbackbones.datasets.check.files import digest, file_length, in_threads, inspect_image, missing_folder, near_name
from mmbackbones.datasets.check.image_reader import OPENCV, ImageReader
from mmbackbones.datasets.check.origins import origin_of
from mmbackbones.datasets.check.report import Fault, Findings
from mmbackbones.errors import InputError


@dataclass(frozen=True)
class CocoSpec:
    """The parts of a data set's configuration that the check needs.

    Args:
        ann_file: Annotation file.
        img_dir: Folder to which the file's names are relative.
        classes: Class names in the order of the labels.
        need_objects: Objects must be annotated (False for test sets without annotations).
        need_masks: Every object must have a segmentation.
        need_polygons: Masks in RLE are ignored.
        metrics: What evaluators compute from the objects, such as ``'segm'``; empty for none.
        scored: An evaluator reads this file with pycocotools.
        min_size: Images whose shorter side is smaller, in pixels, are left out.
        reader: How the images are decoded.
        kind: Type of a data set that is known, see :func:`mmbackbones.datasets.check.origins.known_type`.
    """

    ann_file: str
    img_dir: str
    classes: tuple[str, ...]
    need_objects: bool = True
    need_masks: bool = True
    need_polygons: bool = False
    metrics: tuple[str, ...] = ()
    scored: bool = False
    min_size: int = 0
    reader: ImageReader = OPENCV
    kind: str = ''

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders on which the result depends."""
        return self.ann_file, self.img_dir

    def __str__(self) -> str:
        return self.ann_file

    def fingerprint(self) -> str:
        """Digest of the annotation file's bytes and of its images' names and sizes; empty where it is malformed."""
        try:
            data, content = read_annotations(self.ann_file)
        except InputError:
            return ''
        names = [record['file_name'] for record in _list(content.get('images')) if not image_record_fault(record)]
        return digest(data, zip(names, in_threads(file_length, [self._image(name) for name in names], self.img_dir)))

    def check(self, full: bool) -> Findings:
        """Check the annotations and each image's size, header and end marker; with `full` also all pixels."""
        found = Findings()
        try:
            data, content = read_annotations(self.ann_file)
        except InputError as error:
            detail = str(error).removeprefix(f'{self.ann_file}: ')
            if not os.path.exists(self.ann_file):
                detail += origin_of(self.kind)
            found.faults.append(Fault(self.ann_file, 'annotation file', detail))
            return found
        if not os.path.isdir(self.img_dir):
            detail = f'no such folder of images{missing_folder(self.img_dir)}{origin_of(self.kind)}'
            found.faults.append(Fault(self.img_dir, 'image folder', detail))
        for key in ('images', 'annotations', 'categories'):
            if key == 'annotations' and not content.get(key, []) and not self.need_objects and not self.metrics:
                continue
            if key == 'annotations' and key not in content and not self.need_objects:
                found.warnings.append(Fault(self.ann_file, 'annotation file', 'no annotations: nothing can be scored'))
            elif not isinstance(content.get(key), list) or not content[key]:
                state = 'missing' if key not in content else 'not a list' if content[key] else 'empty'
                found.faults.append(Fault(self.ann_file, 'annotation file', f'{key!r} is {state}'))
        categories = self._check_categories(_list(content.get('categories')), found)
        images, sizes = self._check_images(_list(content.get('images')), found, full)
        overview = Overview(
            {key: name for key, name in categories.items() if name in self.classes},
            'train on' if self.need_objects else 'score against' if self.metrics else '',
            self.scored,
            self.min_size,
            self.need_polygons,
        )
        for kind, ids in (('category', categories), ('image', images)):
            for key in ids:
                overview.add_id(kind, key)
        self._check_annotations(_list(content.get('annotations')), images, set(categories), overview, found, full)
        for kind, detail, is_fault in overview.findings():
            (found.faults if is_fault else found.warnings).append(Fault(self.ann_file, kind, detail))
        found.fingerprint = digest(data, sizes)
        return found

    def without(self, items: set[tuple[str, int | str]]) -> bytes:
        """Content of the annotation file without these items."""
        _, content = read_annotations(self.ann_file)
        for key in ('images', 'annotations'):
            if isinstance(content.get(key), list):
                content[key] = [item for index, item in enumerate(content[key]) if (key, index) not in items]
        return json.dumps(content).encode()

    def _image(self, name: str) -> str:
        return os.path.join(self.img_dir, name)

    def _check_categories(self, categories: list, found: Findings) -> dict:
        """Names by id."""

        def fault(kind: str, detail: str) -> None:
            found.faults.append(Fault(self.ann_file, kind, detail))

        names, ids = [], []
        for index, category in enumerate(categories):
            if isinstance(category, dict) and isinstance(category.get('name'), str) and is_id(category.get('id')):
                names.append(category['name'])
                ids.append(category['id'])
            else:
                fault('category', f'categories[{index}] needs a "name" and an integer "id", not {show(category)}')
        for what, values in (('name', names), ('id', ids)):
            for value, count in Counter(values).items():
                if count > 1:
                    fault('category', f'category {what} {show(value)} occurs {count} times')
        missing = [name for name in self.classes if name not in names]
        if categories and missing:
            near = difflib.get_close_matches(missing[0], [name for name in names if name not in self.classes], n=1)
            hint = f'; did you mean {near[0]!r}?' if near else f'; the file has {show(names)}'
            fault(
                'category',
                f"no category has the name of {len(missing)} of the data set's {len(self.classes)} "
                f'classes: {show(missing)}{hint}',
            )
        in_file_order = [name for name in names if name in self.classes]
        if not missing and in_file_order != list(self.classes) and len(set(names)) == len(names):
            # mmdet numbers the labels in the file's order and names them in the configuration's.
            fault(
                'category',
                f"the file has the categories in the order {show(in_file_order)}, the data set's "
                f'classes are {show(list(self.classes))}: labels would get wrong names',
            )
        surplus = [name for name in names if name not in self.classes]
        if surplus and not missing:
            found.warnings.append(
                Fault(
                    self.ann_file,
                    'category',
                    f'{len(surplus)} categories are no class of the '
                    f'data set, their objects are dropped: {show(surplus)}',
                )
            )
        return dict(zip(ids, names))

    def _check_images(self, records: list, found: Findings, full: bool) -> tuple[dict, list[tuple[str, int]]]:
        """Records by id; name and bytes of each file."""
        images, present = {}, []
        for index, record in enumerate(records):
            problem = image_record_fault(record)
            if problem:
                found.faults.append(
                    Fault(self.ann_file, 'image record', f'images[{index}]: {problem}', ('images', index))
                )
                continue
            if record['id'] in images:
                detail = f'image id {show(record["id"])} occurs twice'
                found.faults.append(Fault(self.ann_file, 'image record', detail, ('images', index)))
            images[record['id']] = record
            present.append((index, record))
        found.images = len(present)
        if not os.path.isdir(self.img_dir):
            return images, []
        paths = [self._image(record['file_name']) for _, record in present]
        facts = in_threads(lambda path: inspect_image(path, full, self.reader), paths, self.img_dir)
        usual = Counter(image.channels for image in facts if image.channels).most_common(1)
        for (index, record), path, image in zip(present, paths, facts):
            stated, item = (record['width'], record['height']), ('images', index)
            if image.fault:
                hint = near_name(path) if image.bytes < 0 else ''
                found.faults.append(Fault(path, 'image', image.fault + hint, item))
            elif image.size != stated:
                found.faults.append(
                    Fault(
                        path,
                        'image size',
                        f'is {image.size[0]}x{image.size[1]} px, but '
                        f'{self.ann_file} says {stated[0]}x{stated[1]} (width x height)',
                        item,
                    )
                )
            elif image.channels and image.channels != usual[0][0]:
                detail = f'has {image.channels} channels as the pipeline reads it, most images have {usual[0][0]}'
                found.faults.append(Fault(path, 'image', detail, item))
            if image.warning:
                found.warnings.append(Fault(path, 'image', image.warning))
        for name, count in Counter(record['file_name'] for _, record in present).items():
            if count > 1:
                detail = f'file_name {show(name)} is in {count} image records: each has only some of its objects'
                found.warnings.append(Fault(self.ann_file, 'image record', detail))
        return images, [(record['file_name'], image.bytes) for (_, record), image in zip(present, facts)]

    def _check_annotations(
        self, annotations: list, images: dict, category_ids: set, overview: Overview, found: Findings, full: bool
    ) -> None:
        seen = set()
        for index, annotation in enumerate(annotations):
            item = ('annotations', index)
            if not isinstance(annotation, dict) or not is_id(annotation.get('id')):
                found.faults.append(
                    Fault(
                        self.ann_file,
                        'annotation',
                        f'annotations[{index}] needs an "id", not {show(annotation)}',
                        item,
                    )
                )
                continue
            found.annotations += 1
            where = f'annotation {show(annotation["id"])}'
            if annotation['id'] in seen:
                found.faults.append(Fault(self.ann_file, 'annotation', f'{where}: the id occurs twice', item))
            seen.add(annotation['id'])
            overview.add_id('annotation', annotation['id'])
            before = len(found.faults)
            for kind, detail, is_fault in annotation_findings(
                annotation, images, category_ids, self.need_masks, 'segm' in self.metrics, full
            ):
                fault = Fault(self.ann_file, kind, f'{where}: {detail}', item)
                (found.faults if is_fault else found.warnings).append(fault)
            if len(found.faults) == before:
                overview.add(annotation, images[annotation['image_id']])


def _list(value: object) -> list:
    return value if isinstance(value, list) else []
