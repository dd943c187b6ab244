"""What only all objects of a COCO annotation file together show: nothing to learn, other units, unfit ids."""

from collections import Counter
from collections.abc import Iterator, Mapping

from mmbackbones.datasets.check.coco_records import show

SAMPLE = 500  # objects whose box is compared with their polygons
FEW = 3  # boxes; less tell nothing on what all have in common
NEAR = 2  # px
MAX_ID = 2**63


class Overview:
    """Tally of the objects of a file.

    Args:
        classes: Names of the data set's classes by category id.
        aim: What the objects are for: ``'train on'``, ``'score against'``, or empty.
        scored: pycocotools and ``compare.py`` read the file.
        min_size: Images whose shorter side is smaller, in pixels, are left out.
        need_polygons: Masks in RLE are ignored.
    """

    def __init__(self, classes: Mapping, aim: str, scored: bool, min_size: int, need_polygons: bool) -> None:
        self.classes, self.aim, self.scored = classes, aim, scored
        self.min_size, self.need_polygons = min_size, need_polygons
        self.total = 0
        self.left: Counter = Counter()
        self.dropped: Counter = Counter()
        self.unfit: dict[str, list] = {}
        self.id_types: set[type] = set()
        self.largest = 0.0
        self.beyond, self.all_corners = 0, True
        self.sampled, self.sample_corners, self.sample_fractions, self.sample_apart = 0, 0, 0, 0

    def add_id(self, kind: str, value: object) -> None:
        """Note a valid id of an ``image``, ``category`` or ``annotation``."""
        if kind == 'image' and self.aim == 'score against':
            self.id_types.add(type(value))
            if len(self.id_types) > 1:
                self._unfit(f'image {show(value)}', 'some image ids are numbers and some texts; scoring sorts them')
        if not self.scored:
            return
        if not isinstance(value, int) or not 0 <= value < MAX_ID:
            self._unfit(f'{kind} {show(value)}', f'{kind} ids for scoring are whole numbers from 0 on; renumber them')
        elif value == 0 and kind == 'annotation':
            problem = 'pycocotools takes a match with id 0 for none, and scores fall; number the annotations from 1'
            self._unfit('annotation id 0', problem)

    def add(self, annotation: dict, record: dict) -> None:
        """Note an object without faults, and its image."""
        self.total += 1
        if self.scored and annotation.get('iscrowd') is None:
            problem = 'no "iscrowd", which pycocotools needs; set 0, or 1 for a crowd'
            self._unfit(f'annotation {show(annotation["id"])}', problem)
        reason = self._reason(annotation, record)
        if reason:
            self.dropped[reason] += 1
        else:
            self.left[annotation['category_id']] += 1
        x, y, width, height = annotation['bbox']
        self.largest = max(self.largest, x, y, width, height)
        self.beyond += x + width > record['width'] + 1 or y + height > record['height'] + 1
        if not (x < width <= record['width'] + 1 and y < height <= record['height'] + 1):
            self.all_corners = False
        segmentation = annotation.get('segmentation')
        if self.sampled < SAMPLE and segmentation and isinstance(segmentation, list):
            self._compare(annotation['bbox'], segmentation)

    def findings(self) -> Iterator[tuple[str, str, bool]]:
        """A kind, a sentence, and whether it is a fault (else a warning)."""
        for problem, (first, count) in self.unfit.items():
            yield 'id', f'{first}{f" and {count - 1} more" if count > 1 else ""}: {problem}', True
        if not self.total:
            return
        if self.largest <= 1:
            yield 'box', f'{_all("bbox", self.total)} lies between 0 and 1: pixels are expected, not fractions', True
        elif self.sample_fractions * 2 > self.sampled:
            yield 'segmentation', 'polygons lie between 0 and 1: pixels are expected, not fractions', True
        if self._has_corners():
            detail = 'bbox holds corners (x1, y1, x2, y2): (x, y, width, height) is expected'
            yield 'box', f'{detail}; {self.beyond} of {self.total} reach beyond their images', True
        elif self.sample_apart * 2 > self.sampled:
            yield 'box', f'bbox and segmentation lie apart in {self.sample_apart} of {self.sampled} objects', False
        if self.aim:
            yield from self._what_is_left()

    def _what_is_left(self) -> Iterator[tuple[str, str, bool]]:
        reasons = ', '.join(f'{count} {reason}' for reason, count in self.dropped.most_common())
        if not self.left:
            yield 'annotation', f'no object is left to {self.aim}, of all {self.total}: {reasons}', True
            return
        for reason in (reason for reason in self.dropped if reason.startswith(('RLE', 'in images'))):
            yield 'annotation', f'{self.dropped[reason]} objects are dropped: {reason}', False
        never = [name for key, name in self.classes.items() if not self.left[key]]
        if never:
            yield (
                'category',
                f'no object to {self.aim} for {len(never)} of {len(self.classes)} classes: {show(never)}',
                False,
            )

    def _reason(self, annotation: dict, record: dict) -> str | None:
        """Why mmdet, or pycocotools, passes over an object."""
        if annotation.get('iscrowd'):
            return 'crowds'
        if annotation['category_id'] not in self.classes:
            return 'of no class of the data set'
        if self.aim != 'train on':
            return None
        if annotation.get('ignore'):
            return 'with ignore=1'
        if min(annotation['bbox'][2:]) < 1 or annotation['area'] <= 0:
            return 'with a bbox smaller than a pixel, or without area'
        if min(record['width'], record['height']) < self.min_size:
            return f'in images smaller than filter_cfg.min_size={self.min_size}'
        if self.need_polygons and isinstance(annotation.get('segmentation'), dict):
            return 'RLE masks, with poly2mask=False in the pipeline'
        return None

    def _compare(self, box: list, polygons: list) -> None:
        xs = [value for polygon in polygons for value in polygon[::2]]
        ys = [value for polygon in polygons for value in polygon[1::2]]
        if not xs or not ys:
            return
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        x, y, width, height = box
        self.sampled += 1
        off = max(abs(x + width - right), abs(y + height - bottom))
        self.sample_corners += off > NEAR >= max(abs(width - right), abs(height - bottom))
        self.sample_fractions += max(right, bottom) <= 1 < min(width, height)
        self.sample_apart += not (x < right and left < x + width and y < bottom and top < y + height)

    def _has_corners(self) -> bool:
        if self.sampled >= FEW:
            return self.sample_corners * 2 > self.sampled
        # Boxes of large objects pass for corners, too; few of them reach beyond their images.
        return self.total >= FEW and self.beyond * 3 >= self.total and self.all_corners

    def _unfit(self, where: str, problem: str) -> None:
        self.unfit.setdefault(problem, [where, 0])[1] += 1


def _all(what: str, count: int) -> str:
    return f'{what} of the only object' if count == 1 else f'{what} of all {count} objects'
