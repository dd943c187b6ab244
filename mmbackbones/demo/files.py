"""The folder of a demo: painted images or a painted video, the maps of a segmentor, and the predictions as JSON.

    OUT/predictions.json     what was found, in the schema of docs/demo.md
    OUT/painted/NAME.png     of a video: OUT/painted/NAME.mp4
    OUT/maps/NAME.png        segmentors: the class of every pixel; of a video: OUT/maps/NAME/FRAME.png

The folder appears under its name when it is complete.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import mmcv
import numpy as np
from mmdet.structures.mask import encode_mask_results
from mmengine.structures import BaseDataElement

from mmbackbones.demo.inputs import Picture, Video, frames, read
from mmbackbones.demo.model import Model
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import OutputFolder

FORMAT = 'mmbackbones-demo-1'
PREDICTIONS = 'predictions.json'


def write(model: Model, shown: Sequence[Picture] | Video, folder: OutputFolder) -> tuple[int, int | None]:
    """Predict and paint all that is shown, and complete the folder.

    Args:
        model: detector or segmentor.
        shown: images or a video.
        folder: where the results go. It is discarded if anything fails.

    Returns:
        tuple: number of images or frames, and of detections (None of a segmentor).

    Raises:
        InputError: an image or frame does not fit the network, or the disk is full.
    """
    try:
        found = _write_video(model, shown, folder.partial) if isinstance(shown, Video) else None
        found = found or _write_images(model, shown, folder.partial)  # type: ignore[arg-type]
        folder.commit(None)
    except OSError as error:
        folder.discard()
        raise InputError(f'--out {folder.path}: cannot be written: {error.strerror or error}') from error
    except BaseException:  # also when the user stops it: nothing stays half-written
        folder.discard()
        raise
    return found


def describe(model: Model, sample: BaseDataElement) -> dict[str, Any]:
    """A prediction as plain data.

    Returns:
        dict: ``detections`` (class, label, score, box, and mask if the detector predicts masks; the highest score
        first), or ``shares`` (by class, the part of the pixels, the largest first).
    """
    if model.task == 'segmentation':
        counts = np.bincount(_labels(sample).ravel(), minlength=len(model.classes))
        order = np.argsort(-counts, kind='stable')
        return dict(shares={model.classes[i]: round(counts[i] / counts.sum(), 6) for i in order if counts[i]})
    instances = sample.pred_instances
    masks = encode_mask_results(instances.masks.numpy()) if 'masks' in instances else None
    detections = []
    for i in instances.scores.argsort(descending=True, stable=True).tolist():
        label = int(instances.labels[i])
        detection = {
            'class': model.classes[label],
            'label': label,
            'score': round(float(instances.scores[i]), 6),
            'box': [round(value, 3) for value in instances.bboxes[i].tolist()],
        }
        if masks is not None:
            height, width = masks[i]['size']
            detection['mask'] = dict(size=[int(height), int(width)], counts=masks[i]['counts'].decode())
        detections.append(detection)
    return dict(detections=detections)


def _labels(sample: BaseDataElement) -> np.ndarray:
    """Class of every pixel, [H, W] integers."""
    return sample.pred_sem_seg.data[0].numpy()


def _write_images(model: Model, pictures: Sequence[Picture], folder: Path) -> tuple[int, int | None]:
    total = 0
    with _predictions(model, folder) as add:
        for picture in pictures:
            image = read(picture.path, model.reader)
            sample = model.predict(image, str(picture.path))
            files = dict(painted=f'painted/{picture.name}.png')
            _put(folder / files['painted'], model.paint(image, sample))
            if model.task == 'segmentation':
                files['map'] = f'maps/{picture.name}.png'
                _put_map(folder / files['map'], sample)
            found = describe(model, sample)
            total += len(found.get('detections', ()))
            add(dict(file=str(picture.path), width=image.shape[1], height=image.shape[0], **files, **found))
    return len(pictures), None if model.task == 'segmentation' else total


def _write_video(model: Model, video: Video, folder: Path) -> tuple[int, int | None]:
    painted = f'painted/{video.name}.mp4'
    total = number = 0
    writer = None
    with _predictions(model, folder) as add:
        try:
            for number, image in enumerate(frames(video), 1):
                sample = model.predict(image, f'{video.path}, frame {number - 1}')
                if writer is None:
                    writer = _video_writer(folder / painted, video.rate, image.shape)
                writer.write(np.ascontiguousarray(model.paint(image, sample)))
                files = dict(painted=painted)
                if model.task == 'segmentation':
                    files['map'] = f'maps/{video.name}/{number - 1:06}.png'
                    _put_map(folder / files['map'], sample)
                found = describe(model, sample)
                total += len(found.get('detections', ()))
                at = dict(frame=number - 1, seconds=round((number - 1) / video.rate, 3))
                add(dict(file=str(video.path), **at, width=image.shape[1], height=image.shape[0], **files, **found))
        finally:
            if writer is not None:
                writer.release()
    return number, None if model.task == 'segmentation' else total


@contextmanager
def _predictions(model: Model, folder: Path) -> Iterator[Any]:
    """A function that adds one image to the JSON file. They are not collected: a video may have a hundred thousand."""
    head: dict[str, Any] = dict(
        format=FORMAT,
        task=model.task,
        config=model.config,
        checkpoint=model.checkpoint,
        device=model.device,
        classes=list(model.classes),
    )
    if model.task == 'detection':
        head['score_threshold'] = model.score_threshold
    with (folder / PREDICTIONS).open('w') as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "images": [')
        yield _Items(file).add
        file.write('\n ]\n}\n')


class _Items:
    """Items of a JSON list, one a line."""

    def __init__(self, file: IO[str]):
        self.file, self.separator = file, '\n  '

    def add(self, item: dict) -> None:
        self.file.write(self.separator + json.dumps(item, allow_nan=False))
        self.separator = ',\n  '


def _put(path: Path, image: np.ndarray) -> None:
    if not mmcv.imwrite(image, str(path)):
        raise OSError(f'{path.name} is not written')


def _put_map(path: Path, sample: BaseDataElement) -> None:
    labels = _labels(sample)
    _put(path, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


def _video_writer(path: Path, rate: float, shape: Sequence[int]) -> cv2.VideoWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, (shape[1], shape[0]))  # type: ignore[attr-defined]
    if not writer.isOpened():
        raise OSError(f'OpenCV cannot write an MP4 of {shape[1]}x{shape[0]} px')
    return writer
