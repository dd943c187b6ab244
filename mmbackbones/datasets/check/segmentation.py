"""The check of an ADE20K-style segmentation data set: a folder of images and a folder of index masks."""

import os
from collections import Counter
from dataclasses import dataclass

import mmengine
from mmengine.fileio import list_dir_or_file
from PIL import Image

from mmbackbones.datasets.check.files import (
    SIDEWAYS,
    FileFacts,
    digest,
    file_length,
    in_threads,
    inspect_image,
    missing_folder,
)
from mmbackbones.datasets.check.image_reader import OPENCV, ImageReader
from mmbackbones.datasets.check.masks import MaskFacts, inspect_mask
from mmbackbones.datasets.check.origins import origin_of, unprepared
from mmbackbones.datasets.check.report import Fault, Findings

BYTE_ORDER_MARK = '\ufeff'
TOP_LABEL = 255  # mmseg loads masks as 8 bits
NOT_OF_PILLOW = ('.heic', '.heif')


@dataclass(frozen=True)
class SegmentationSpec:
    """The parts of a data set's configuration that the check needs.

    Args:
        img_dir: Folder of the images.
        seg_dir: Folder of the masks; None for a test set without masks.
        ann_file: Text file with one name per line, without suffix; empty for all images of the folder.
        img_suffix: Suffix of the images.
        seg_suffix: Suffix of the masks.
        num_labels: Number of classes in the masks; None if unknown.
        reduce_zero_label: The masks count classes from 1, and 0 is unlabelled.
        ignore_index: Label that is always allowed.
        classes: Names of the classes that are learnt and scored.
        label_map: Pairs of a class in the masks, from 0, and the class or ignored label that it becomes; None if the
            labels stay.
        reader: How the images are decoded.
        mask_backend: Image library that loads the masks; None if the pipeline has a transform of its own for that.
        kind: Type of a data set that is known, see :func:`mmbackbones.datasets.check.origins.known_type`.
    """

    img_dir: str
    seg_dir: str | None
    ann_file: str = ''
    img_suffix: str = '.jpg'
    seg_suffix: str = '.png'
    num_labels: int | None = None
    reduce_zero_label: bool = False
    ignore_index: int = 255
    classes: tuple[str, ...] = ()
    label_map: tuple[tuple[int, int], ...] | None = None
    reader: ImageReader = OPENCV
    mask_backend: str | None = 'pillow'
    kind: str = ''

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders on which the result depends."""
        return tuple(path for path in (self.ann_file, self.img_dir, self.seg_dir) if path)

    def __str__(self) -> str:
        return self.img_dir + (f' ({self.ann_file})' if self.ann_file else '')

    def fingerprint(self) -> str:
        """Digest of the masks' bytes and of the images' names and sizes; empty if a folder or list is missing."""
        if self._missing():
            return ''
        names = self._names(Findings())
        paths = [self._image(name) for name in names]
        sizes = in_threads(file_length, paths, self.img_dir)
        masks = self._inspect_masks(names) if self.seg_dir else None
        return self._digest(names, sizes, masks)

    def check(self, full: bool) -> Findings:
        """Decode every mask. Check each image's size, header and end marker; with `full` also all pixels."""
        found = Findings(faults=self._missing())
        if found.faults:
            return found
        names = self._names(found)
        found.images = len(names)
        images = in_threads(lambda name: inspect_image(self._image(name), full, self.reader), names, self.img_dir)
        usual = Counter(image.channels for image in images if image.channels).most_common(1)
        for name, image in zip(names, images):
            if image.fault:
                detail = image.fault + (self._other_suffix(self.img_dir, name) if image.bytes < 0 else '')
                found.faults.append(Fault(self._image(name), 'image', detail, ('images', name)))
            elif image.channels and image.channels != usual[0][0]:
                detail = f'has {image.channels} channels as the pipeline reads it, most images have {usual[0][0]}'
                found.faults.append(Fault(self._image(name), 'image', detail, ('images', name)))
            if image.warning:
                found.warnings.append(Fault(self._image(name), 'image', image.warning, ('images', name)))
        masks = None
        if self.seg_dir:
            masks = self._inspect_masks(names)
            if all(mask.bytes < 0 for mask in masks) and (clause := self._unprepared()):
                found.faults.append(Fault(self.seg_dir, 'mask folder', f'holds no *{self.seg_suffix} file{clause}'))
                return found
            found.annotations = sum(mask.bytes >= 0 for mask in masks)
            labels: Counter = Counter()
            for name, image, mask in zip(names, images, masks):
                self._compare(name, image, mask, found)
                labels.update(mask.labels or {})
            found.labels = dict(labels)
            if not self._list_of_names:
                self._find_unused_masks(set(names), found)
        found.fingerprint = self._digest(names, [image.bytes for image in images], masks)
        return found

    def without(self, items: set[tuple[str, int | str]]) -> bytes:
        """Content of the list of names without these items."""
        return ''.join(f'{name}\n' for name in self._names(Findings()) if ('images', name) not in items).encode()

    def _missing(self) -> list[Fault]:
        faults = [
            Fault(path, kind, f'no such folder of {what}{missing_folder(path)}')
            for path, kind, what in ((self.img_dir, 'image folder', 'images'), (self.seg_dir, 'mask folder', 'masks'))
            if path and not os.path.isdir(path)
        ]
        if faults:
            detail = faults[0].detail + (self._unprepared() or origin_of(self.kind))
            faults[0] = faults[0]._replace(detail=detail)
        if self.ann_file and not os.path.isfile(self.ann_file) and not os.path.isdir(self.ann_file):
            faults.append(Fault(self.ann_file, 'annotation file', 'no such list of names'))
        return faults

    def _unprepared(self) -> str:
        return unprepared(self.kind, self.img_dir, self.seg_dir)

    @property
    def _list_of_names(self) -> bool:
        return bool(self.ann_file) and not os.path.isdir(self.ann_file)

    def _names(self, found: Findings) -> list[str]:
        """Names of all images, relative to the folder and without suffix."""
        if self._list_of_names:
            return self._listed(found)
        names, others = _split(self.img_dir, self.img_suffix)
        stems = set(names)
        left_out = [
            file
            for file in others
            if _meant_for(file, self.img_suffix) and not file.endswith(self.seg_suffix) and _stem(file) not in stems
        ]
        if not names:
            hint = f', but {len(left_out)} such as {left_out[0]}' if left_out else ''
            found.faults.append(Fault(self.img_dir, 'image folder', f'holds no *{self.img_suffix} file{hint}'))
            return names
        for file in left_out:
            detail = f'the image is left out: its suffix is not img_suffix={self.img_suffix!r}'
            found.warnings.append(Fault(os.path.join(self.img_dir, file), 'image suffix', detail))
        return names

    def _listed(self, found: Findings) -> list[str]:
        """Names in the list; lines that mmseg cannot use are faults."""

        def fault(detail: str, item: tuple[str, str] | None = None) -> None:
            found.faults.append(Fault(self.ann_file, 'annotation file', detail, item))

        try:
            names = [line.strip() for line in mmengine.list_from_file(self.ann_file)]
        except (OSError, UnicodeDecodeError) as error:
            fault(f'not a readable list of names: {error}')
            return []
        if names and names[0].startswith(BYTE_ORDER_MARK):
            fault('starts with a byte order mark, which mmseg takes for a part of the first name: save it as UTF-8')
            names[0] = names[0].lstrip(BYTE_ORDER_MARK)
        blank = [number for number, name in enumerate(names, 1) if not name]
        if not any(names):
            fault('the list of names is empty')
        elif blank:
            fault(f'line {blank[0]} is blank, which mmseg takes for a name', ('images', ''))
        return [name for name in names if name]

    def _find_unused_masks(self, used: set[str], found: Findings) -> None:
        names, others = _split(self.seg_dir, self.seg_suffix)
        for name in sorted(set(names) - used):
            detail = f'missing: {self._mask(name)} has no image{self._other_suffix(self.img_dir, name)}'
            found.faults.append(Fault(self._image(name), 'image', detail, ('images', name)))
        for file in others:
            # Other kinds of files, such as coloured masks, may stand beside the masks; one in another case is meant.
            if file.lower().endswith(self.seg_suffix.lower()) and file[: -len(self.seg_suffix)] not in used:
                detail = f'the mask is left out: its suffix is not seg_map_suffix={self.seg_suffix!r}'
                found.warnings.append(Fault(os.path.join(self.seg_dir, file), 'mask suffix', detail))

    def _other_suffix(self, folder: str, name: str) -> str:
        """Clause that says why a file is missing under its name: it has another suffix, or the name has one."""
        key, suffix = ('img_suffix', self.img_suffix) if folder == self.img_dir else ('seg_map_suffix', self.seg_suffix)
        if self._list_of_names and _is_image(name):
            return f'; {self.ann_file} lists names without suffix, {key}={suffix!r} is added'
        place, stem = os.path.split(os.path.join(folder, name))
        try:
            files = sorted(os.listdir(place))
        except (OSError, ValueError):  # ValueError: no possible name
            return ''
        others = [file for file in files if _stem(file).lower() == stem.lower() and _is_image(file)]
        return f'; {others[0]} stands there, but {key}={suffix!r}' if others else ''

    def _inspect_masks(self, names: list[str]) -> list[MaskFacts]:
        return in_threads(lambda name: inspect_mask(self._mask(name), self.mask_backend), names, self.seg_dir)

    def _image(self, name: str) -> str:
        return os.path.join(self.img_dir, name + self.img_suffix)

    def _mask(self, name: str) -> str:
        return os.path.join(self.seg_dir, name + self.seg_suffix)

    def _compare(self, name: str, image: FileFacts, mask: MaskFacts, found: Findings) -> None:
        path, item = self._mask(name), ('images', name)
        if mask.bytes < 0:
            detail = f'missing: {self._image(name)} has no mask{self._other_suffix(self.seg_dir, name)}'
            found.faults.append(Fault(path, 'mask', detail, item))
        elif mask.fault:
            found.faults.append(Fault(path, 'mask', mask.fault, item))
        if image.size and mask.size and image.size != mask.size:
            turned = f', turned by its EXIF orientation {image.orientation}' if image.orientation in SIDEWAYS else ''
            detail = (
                f'is {mask.size[0]}x{mask.size[1]} px, its image '
                f'{self._image(name)} {image.size[0]}x{image.size[1]}{turned}'
            )
            found.faults.append(Fault(path, 'mask size', detail, item))
        elif mask.size and image.orientation != 1 and (image.orientation not in SIDEWAYS or len(set(mask.size)) == 1):
            detail = (
                f'the image is turned by its EXIF orientation {image.orientation} when it is loaded, its mask '
                f'{path} is not: they fit only if the mask was drawn on the turned image'
            )
            found.warnings.append(Fault(self._image(name), 'orientation', detail, item))
        if mask.labels is not None:
            self._check_labels(path, mask, item, found)

    def _check_labels(self, path: str, mask: MaskFacts, item: tuple[str, str], found: Findings) -> None:
        lossy = '; the mask is a JPEG, whose lossy compression changes labels' if mask.lossy else ''
        wrong, top = {}, TOP_LABEL
        if self.num_labels is not None:
            top = self.num_labels if self.reduce_zero_label else self.num_labels - 1
        for label, count in mask.labels.items():
            if not 0 <= label <= min(top, TOP_LABEL) and label != self.ignore_index:
                wrong[label] = count
        if wrong:
            labels = ', '.join(map(str, sorted(wrong)[:5])) + (', ...' if len(wrong) > 5 else '')
            detail = f'label {labels} ({sum(wrong.values())} pixels) is outside 0 to {min(top, TOP_LABEL)}'
            if self.num_labels is not None:
                detail += f' for the {self.num_labels} classes'
            if min(wrong) == self.num_labels:
                detail += f' with reduce_zero_label={self.reduce_zero_label}'
            if path.endswith('_gtFine_labelIds.png'):
                detail += '; Cityscapes is trained on *_gtFine_labelTrainIds.png'
            found.faults.append(Fault(path, 'label', detail + lossy, item))
        elif lossy and len(mask.labels) > 1:
            found.warnings.append(Fault(path, 'mask format', lossy[2:], item))
        if not wrong and all(self.loaded(label) in (self.ignore_index, TOP_LABEL) for label in mask.labels):
            detail = f'every pixel of the mask is ignored (label {", ".join(map(str, sorted(mask.labels)))})'
            found.warnings.append(Fault(path, 'unlabelled', detail, item))

    def loaded(self, label: int) -> int:
        """Label that mmseg's ``LoadAnnotations`` makes of one in the file."""
        if label == TOP_LABEL or (self.reduce_zero_label and label == 0):
            return TOP_LABEL
        label -= self.reduce_zero_label
        return label if self.label_map is None else dict(self.label_map).get(label, label)

    def class_of(self, label: int) -> str | None:
        """Name of the class of a label in the file; None for an ignored one."""
        index = self.loaded(label)
        return self.classes[index] if index < len(self.classes) and index != self.ignore_index else None

    def _digest(self, names: list[str], sizes: list[int], masks: list[FileFacts] | None) -> str:
        hashes = [mask.sha256 for mask in masks] if masks else [''] * len(names)
        return digest('', zip(names, sizes, hashes))


def _split(folder: str, suffix: str) -> tuple[list[str], list[str]]:
    """Names below `folder` that end in `suffix`, without it, and all other files: found as mmseg finds them."""
    names, others = [], []
    for file in list_dir_or_file(folder, list_dir=False, recursive=True):
        if file.endswith(suffix):
            names.append(file[: -len(suffix)])
        else:
            others.append(file)
    return sorted(names), sorted(others)


def _meant_for(file: str, suffix: str) -> bool:
    """Whether a file looks as if it should have this suffix: it has it in another case, or is another image format."""
    return file.lower().endswith(suffix.lower()) or (suffix == os.path.splitext('x' + suffix)[1] and _is_image(file))


def _is_image(file: str) -> bool:
    suffix = os.path.splitext(file)[1].lower()
    return suffix in Image.registered_extensions() or suffix in NOT_OF_PILLOW


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]
