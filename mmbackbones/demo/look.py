"""Where a token of a model's backbone looks in an image."""

import cv2
import numpy as np
from matplotlib.figure import Figure

from mmbackbones.analysis.receptive_field import Field, measure, require_inside
from mmbackbones.analysis.receptive_field.draw import draw
from mmbackbones.demo.model import Model


def look(model: Model, image: np.ndarray, at: tuple[float, float]) -> tuple[list[Field], tuple[float, float]]:
    """Measure the effective receptive fields at a point of an image, which is prepared as a test prepares it.

    Args:
        model: detector or segmentor.
        image: [H, W, 3] uint8 BGR.
        at: x and y in pixels of it.

    Returns:
        tuple: one field per map of the backbone, without the padding, and the point in pixels of the fields. Their
        size is that of the prepared image, which the test pipeline may have scaled.

    Raises:
        InputError: the point is outside the image.
    """
    require_inside(at, image.shape[:2])
    ready = model.prepare(image)
    height, width = ready.size
    # Centres of pixels, which are half a pixel from their corners, are scaled like the image.
    x, y = ((value + 0.5) * scale - 0.5 for value, scale in zip(at, ready.scale))
    point = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    fields = measure(model.backbone, ready.image, point)
    return [field._replace(values=field.values[:height, :width]) for field in fields], point


def draw_look(model: Model, image: np.ndarray, at: tuple[float, float]) -> Figure:
    """The result of :func:`look` over the image, one panel per map of the backbone."""
    fields, point = look(model, image, at)
    height, width = fields[0].values.shape
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return draw({type(model.backbone).__name__: fields}, point, scaled[..., ::-1])
