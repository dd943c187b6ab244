"""The check of an ADE20K-style segmentation data set: a folder of images and a folder of index masks."""

import os
from dataclasses import dataclass

from mmengine.fileio import list_dir_or_file

from mmbackbones.datasets.check.files import (
    FileFacts,
    digest,
    file_length,
    in_threads,
    inspect_image,
    inspect_mask,
    missing_folder,
)
from mmbackbones.datasets.check.report import Fault, Findings


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
    """

    img_dir: str
    seg_dir: str | None
    ann_file: str = ''
    img_suffix: str = '.jpg'
    seg_suffix: str = '.png'
    num_labels: int | None = None
    reduce_zero_label: bool = False
    ignore_index: int = 255

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
        masks = in_threads(inspect_mask, [self._mask(name) for name in names], self.seg_dir) if self.seg_dir else None
        return self._digest(names, sizes, masks)

    def check(self, full: bool) -> Findings:
        """Decode every mask. Check each image's size, header and end marker; with `full` also all pixels."""
        found = Findings(faults=self._missing())
        if found.faults:
            return found
        names = self._names(found)
        found.images = len(names)
        images = in_threads(lambda name: inspect_image(self._image(name), decode=full), names, self.img_dir)
        for name, image in zip(names, images):
            if image.fault:
                found.faults.append(Fault(self._image(name), 'image', image.fault, ('images', name)))
        masks = None
        if self.seg_dir:
            masks = in_threads(inspect_mask, [self._mask(name) for name in names], self.seg_dir)
            found.annotations = sum(mask.bytes >= 0 for mask in masks)
            for name, image, mask in zip(names, images, masks):
                self._compare(name, image, mask, found)
            if not self.ann_file:
                for name in sorted(set(_stems(self.seg_dir, self.seg_suffix)) - set(names)):
                    found.faults.append(
                        Fault(self._image(name), 'image', f'missing: {self._mask(name)} has no image', ('images', name))
                    )
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
        if self.ann_file and not os.path.isfile(self.ann_file) and not os.path.isdir(self.ann_file):
            faults.append(Fault(self.ann_file, 'annotation file', 'no such list of names'))
        return faults

    def _names(self, found: Findings) -> list[str]:
        """Names of all images, relative to the folder and without suffix."""
        if self.ann_file and not os.path.isdir(self.ann_file):
            try:
                with open(self.ann_file, encoding='utf-8') as file:
                    names = [line.strip() for line in file.read().splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                found.faults.append(Fault(self.ann_file, 'annotation file', f'not a readable list of names: {error}'))
                return []
            source = Fault(self.ann_file, 'annotation file', 'the list of names is empty')
        else:
            names = _stems(self.img_dir, self.img_suffix)
            source = Fault(self.img_dir, 'image folder', f'holds no *{self.img_suffix} file')
        if not names:
            found.faults.append(source)
        return names

    def _image(self, name: str) -> str:
        return os.path.join(self.img_dir, name + self.img_suffix)

    def _mask(self, name: str) -> str:
        return os.path.join(self.seg_dir, name + self.seg_suffix)

    def _compare(self, name: str, image: FileFacts, mask: FileFacts, found: Findings) -> None:
        path, item = self._mask(name), ('images', name)
        if mask.bytes < 0:
            found.faults.append(Fault(path, 'mask', f'missing: {self._image(name)} has no mask', item))
        elif mask.fault:
            found.faults.append(Fault(path, 'mask', mask.fault, item))
        if image.size and mask.size and image.size != mask.size:
            found.faults.append(
                Fault(
                    path,
                    'mask size',
                    f'is {mask.size[0]}x{mask.size[1]} px, its image '
                    f'{self._image(name)} {image.size[0]}x{image.size[1]}',
                    item,
                )
            )
        if mask.labels is None or self.num_labels is None:
            return
        top = self.num_labels if self.reduce_zero_label else self.num_labels - 1
        wrong = {
            label: count for label, count in mask.labels.items() if not 0 <= label <= top and label != self.ignore_index
        }
        if wrong:
            labels = ', '.join(map(str, sorted(wrong)[:5])) + (', ...' if len(wrong) > 5 else '')
            found.faults.append(
                Fault(
                    path,
                    'label',
                    f'label {labels} ({sum(wrong.values())} pixels) is outside 0 to '
                    f'{top} for the {self.num_labels} classes',
                    item,
                )
            )

    def _digest(self, names: list[str], sizes: list[int], masks: list[FileFacts] | None) -> str:
        hashes = [mask.sha256 for mask in masks] if masks else [''] * len(names)
        return digest('', zip(names, sizes, hashes))


def _stems(folder: str, suffix: str) -> list[str]:
    """Names below `folder` that end in `suffix`, without it: found as mmseg finds them."""
    return sorted(
        name[: -len(suffix)] for name in list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
    )
