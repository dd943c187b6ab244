"""The check of a classification data set: one folder of images per class, as in ImageNet, or a list with labels."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mmbackbones.datasets.check.files import LONG, digest, file_length, in_threads, inspect_image, missing_folder
from mmbackbones.datasets.check.image_reader import OPENCV, ImageReader
from mmbackbones.datasets.check.report import Fault, Findings

ARCHIVES = ('.tar', '.tar.gz', '.tgz', '.zip')
IMAGENET = 1000  # classes, by which a data set is known as ImageNet-1K
ORIGIN = 'ImageNet-1K comes from https://image-net.org as ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar'
LAYOUT = 'one folder per class is expected, such as n01440764/*.JPEG'


@dataclass(frozen=True)
class ImageFolderSpec:
    """The parts of a data set's configuration that the check needs.

    Args:
        img_dir: Folder of the folders of the classes, or of the images in the list.
        ann_file: Text file with lines "NAME LABEL"; empty if folders are the classes.
        extensions: Suffixes of images, in lower case.
        num_classes: Number of classes; None if the folders say it.
        reader: How the images are decoded.
    """

    img_dir: str
    ann_file: str = ''
    extensions: tuple[str, ...] = ('.jpg', '.jpeg', '.png')
    num_classes: int | None = None
    reader: ImageReader = OPENCV

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders on which the result depends."""
        return tuple(path for path in (self.ann_file, self.img_dir) if path)

    def __str__(self) -> str:
        return self.img_dir + (f' ({self.ann_file})' if self.ann_file else '')

    def fingerprint(self) -> str:
        """Digest of the images' names, labels and sizes; empty if a folder or list is missing."""
        samples = self._samples(Findings())
        sizes = in_threads(file_length, [self._path(name) for name, _ in samples], self.img_dir)
        return digest('', ((name, label, size) for (name, label), size in zip(samples, sizes))) if samples else ''

    def check(self, full: bool) -> Findings:
        """Compare the folders with the classes, and look at every file.

        The size of every image is checked. Up to 5,000 images are opened, too: header and end marker; with ``full``
        all images are, and decoded.
        """
        found = Findings()
        samples = self._samples(found)
        found.images = found.annotations = len(samples)
        if full or len(samples) < LONG:
            facts = in_threads(
                lambda sample: inspect_image(self._path(sample[0]), full, self.reader), samples, self.img_dir
            )
            sizes, faults = [fact.bytes for fact in facts], [fact.fault for fact in facts]
        else:
            sizes = in_threads(lambda sample: file_length(self._path(sample[0])), samples, self.img_dir)
            faults = [_fault_of(size) for size in sizes]
        for (name, _), fault in zip(samples, faults):
            if fault:
                found.faults.append(Fault(self._path(name), 'image', fault, ('images', name)))
        rows = ((name, label, size) for (name, label), size in zip(samples, sizes))
        found.fingerprint = digest('', rows) if samples else ''
        return found

    def without(self, items: set[tuple[str, int | str]]) -> bytes:
        """Content of a list of names and labels without these items."""
        kept = (sample for sample in self._samples(Findings()) if ('images', sample[0]) not in items)
        return ''.join(f'{name} {label}\n' for name, label in kept).encode()

    def _path(self, name: str) -> str:
        return os.path.join(self.img_dir, name)

    def _samples(self, found: Findings) -> list[tuple[str, int]]:
        """Names, relative to the folder, and labels."""
        if not os.path.isdir(self.img_dir):
            found.faults.append(Fault(self.img_dir, 'image folder', f'no such folder of images{self._why_missing()}'))
            return []
        return self._listed(found) if self.ann_file else self._in_folders(found)

    def _why_missing(self) -> str:
        archives = _archives(os.path.dirname(self.img_dir.rstrip('/')))
        if archives:
            return f'; {archives[0]} lies beside it: unpack it there ({LAYOUT})'
        origin = f'; {ORIGIN}; {LAYOUT}' if self.num_classes == IMAGENET else f'; {LAYOUT}'
        return missing_folder(self.img_dir) + origin

    def _in_folders(self, found: Findings) -> list[tuple[str, int]]:
        with os.scandir(self.img_dir) as entries:
            rows = sorted((entry.name, entry.is_dir()) for entry in entries)
        folders = [name for name, is_folder in rows if is_folder]
        files = [name for name, is_folder in rows if not is_folder]
        if not folders:
            found.faults.append(Fault(self.img_dir, 'image folder', self._why_flat(files)))
            return []
        if self.num_classes is not None and len(folders) != self.num_classes:
            archives = _archives(self.img_dir)
            packed = f'; {len(archives)} archives such as {archives[0]} are not unpacked' if archives else ''
            detail = f'holds {len(folders)} folders, but there are {self.num_classes} classes{packed}'
            found.faults.append(Fault(self.img_dir, 'classes', detail))
        samples: list[tuple[str, int]] = []
        others: Counter[str] = Counter()
        for label, folder in enumerate(folders):
            paths = (path for path in Path(self.img_dir, folder).rglob('*') if not path.name.startswith('.'))
            names = sorted(path.relative_to(self.img_dir).as_posix() for path in paths)  # mmpretrain skips hidden files
            images = [name for name in names if name.lower().endswith(self.extensions)]
            samples += [(name, label) for name in images]
            if not images:
                detail = f'the class has no image with a suffix of {", ".join(sorted(self.extensions))}'
                found.faults.append(Fault(self._path(folder), 'class', detail))
            others.update(os.path.splitext(name)[1] for name in set(names) - set(images) if '.' in name)
        for suffix, count in others.items():
            detail = f'{count} files with the suffix {suffix} are left out'
            found.warnings.append(Fault(self.img_dir, 'suffix', detail))
        return samples

    def _why_flat(self, files: list[str]) -> str:
        images = [name for name in files if name.lower().endswith(self.extensions)]
        if images:
            place = os.path.join(os.path.dirname(self.img_dir.rstrip('/')), 'meta')
            listed = os.path.join(place, f'{os.path.basename(self.img_dir.rstrip("/"))}.txt')
            return (
                f'holds {len(images)} images such as {images[0]} and no folder of a class: sort them into folders '
                f'(n01440764/{images[0]}), or give each its label in {listed}, a line "{images[0]} LABEL" per image'
            )
        archives = [name for name in files if name.endswith(ARCHIVES)]
        if archives:
            return f'holds {len(archives)} archives such as {archives[0]}: unpack each into a folder of its name'
        return f'is empty: {LAYOUT}'

    def _listed(self, found: Findings) -> list[tuple[str, int]]:
        """Names and labels in the list; lines that mmpretrain cannot use are faults."""
        try:
            lines = Path(self.ann_file).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            found.faults.append(Fault(self.ann_file, 'annotation file', f'not a readable list of names: {error}'))
            return []
        samples = []
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(' ')
            if not name or not label.isdecimal():
                detail = f'line {number} is {line.strip()!r}, expected a name, a space and a label'
                found.faults.append(Fault(self.ann_file, 'annotation file', detail))
            elif self.num_classes is not None and int(label) >= self.num_classes:
                detail = f'line {number} has label {label}, outside 0 to {self.num_classes - 1}'
                found.faults.append(Fault(self.ann_file, 'label', detail, ('images', name)))
            else:
                samples.append((name, int(label)))
        if not lines:
            found.faults.append(Fault(self.ann_file, 'annotation file', 'the list is empty'))
        return samples


def _fault_of(size: int) -> str | None:
    if size < 0:
        return 'no such file'
    return None if size else 'the file is empty (0 bytes)'


def _archives(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder or '.') if name.endswith(ARCHIVES))
    except OSError:  # no such folder
        return []
