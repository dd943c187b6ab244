"""Faults of one record of a COCO annotation file: an image or an object."""

import math
import reprlib
from collections.abc import Iterator

from pycocotools import mask as mask_api

MAX_SIDE = 65535  # px; of a JPEG
MAX_DIGITS = 8  # of a run in compressed RLE: 40 bits
_SHORT = reprlib.Repr()
_SHORT.maxlist, _SHORT.maxstring = 8, 60
show = _SHORT.repr  # a value in one line of bounded length and depth


def annotation_findings(
    annotation: dict, images: dict, category_ids: set, need_masks: bool, scored_masks: bool, full: bool
) -> Iterator[tuple[str, str, bool]]:
    """Check one object: its category, image, box, area, flags and segmentation.

    Args:
        annotation: Its record.
        images: The sound records of images, by id.
        category_ids: Ids of the file's categories.
        need_masks: It must have a segmentation.
        scored_masks: pycocotools reads the segmentation.
        full: Decode the segmentation.

    Yields:
        A kind, a sentence, and whether it is a fault (else a warning).
    """
    category, image = annotation.get('category_id'), annotation.get('image_id')
    if not is_id(category) or category not in category_ids:
        yield 'unknown category', f"category_id {show(category)} is not among the file's categories", True
    record = images.get(image) if is_id(image) else None
    if record is None:
        yield 'unknown image', f"image_id {show(image)} is not among the file's images", True
        return
    yield from _box_findings(annotation, record)
    yield from _flag_findings(annotation)
    problem = _segmentation_fault(annotation.get('segmentation'), record, need_masks)
    if problem:
        yield 'segmentation', problem, True
        return
    if need_masks and isinstance(annotation['segmentation'], list):
        yield from _short_polygons(annotation['segmentation'], scored_masks)
    if full and annotation.get('segmentation'):
        yield from _mask_findings(annotation['segmentation'], record)


def is_id(value: object) -> bool:
    """Whether this can be the id of a record."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # neither NaN nor inf


def _is_file_name(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode()) and '\0' not in value
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can express
        return False


def image_record_fault(record: object) -> str | None:
    """A sentence that names the fault of an image's record."""
    if not isinstance(record, dict):
        return f'an object was expected, not {show(record)}'
    if not is_id(record.get('id')):
        return f'"id" is {show(record.get("id"))}, an integer was expected'
    name = record.get('file_name')
    if not _is_file_name(name):
        return f'"file_name" is {show(name)}, a file name was expected'
    for key in ('width', 'height'):
        value = record.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIDE:
            return f'"{key}" of {name} is {show(value)}, pixels (1 to {MAX_SIDE}) were expected'
    return None


def _box_findings(annotation: dict, record: dict) -> Iterator[tuple[str, str, bool]]:
    box, area = annotation.get('bbox'), annotation.get('area')
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        yield 'box', f'bbox {show(box)} is not four finite numbers', True
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
        yield 'area', f'area is {show(area)}, square pixels were expected', True
    elif area == 0:
        yield 'area', 'area is 0; the object is dropped', False


def _flag_findings(annotation: dict) -> Iterator[tuple[str, str, bool]]:
    for key in ('iscrowd', 'ignore'):
        value = annotation.get(key)
        # A text such as "0" is true to mmdet and pycocotools: the object is neither learnt nor scored.
        if value is not None and (not isinstance(value, int | float) or value not in (0, 1)):
            yield key, f'{key} is {show(value)}, 0 or 1 was expected', True
    if annotation.get('ignore') in (1, True):
        yield 'ignore', 'ignore is 1; the object is dropped from trainings, and scored nevertheless', False


def _short_polygons(polygons: list, scored: bool) -> Iterator[tuple[str, str, bool]]:
    for place, polygon in enumerate(polygons):
        if len(polygon) % 2:
            yield 'segmentation', f'polygon {show(polygon)} has an odd number of coordinates', True
        elif len(polygon) < 6 and place == 0 and scored:
            # pycocotools takes the whole list for what the first one is.
            yield 'segmentation', f'the first polygon, {show(polygon)}, has less than three points; remove it', True
        elif len(polygon) < 6:
            yield 'segmentation', f'polygon {show(polygon)} has less than three points; it is dropped', False


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
                return f'polygon {show(polygon)} is not a list of finite numbers'
            if polygon and (min(polygon) < -side or max(polygon) > 2 * side):
                # Rasterising takes memory in proportion to the outline.
                return f'polygon {show(polygon)} lies far outside its image of {record["width"]}x{record["height"]} px'
        if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
            return f'no polygon of three points or more in {show(segmentation)}'
        return None
    if not isinstance(segmentation, dict):
        return f'the segmentation is {show(segmentation)}, polygons or RLE were expected'
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if size != [record['height'], record['width']] or not all(type(side) is int for side in size):
        return f'RLE of size {show(size)} on an image of [{record["height"]}, {record["width"]}] (height, width)'
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            return 'RLE counts are not whole numbers'
        if sum(counts) != record['height'] * record['width']:
            return f'RLE counts add up to {sum(counts)}, the image has {record["height"] * record["width"]} pixels'
    elif not isinstance(counts, str) or not counts:
        return f'RLE counts are {show(counts)}'
    elif (pixels := _rle_pixels(counts)) != record['height'] * record['width']:
        return f'RLE counts stand for {pixels} pixels, the image has {record["height"] * record["width"]}'
    return None


def _rle_pixels(counts: str) -> int | None:
    """Number of pixels that compressed RLE stands for; None if it is none.

    Each run is a number of digits to the base 32, the lowest first, with a bit for "more follows". The last digit has
    the sign. From the fourth run on it is the difference to the run before the last.
    """
    runs: list[int] = []
    run = place = 0
    for character in counts:
        digit = ord(character) - ord('0')
        if not 0 <= digit < 64 or place > MAX_DIGITS:
            return None
        run |= (digit & 31) << 5 * place
        place += 1
        if digit & 32:
            continue
        if digit & 16:
            run -= 1 << 5 * place
        if len(runs) > 2:
            run += runs[-2]
        if run < 0:
            return None
        runs.append(run)
        run = place = 0
    return None if place else sum(runs)


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
