"""Run Mask R-CNN on a GPU if mmcv was built without CUDA operators: torchvision's RoIAlign and NMS replace mmcv's.

Building mmcv for CUDA needs an nvcc of torch's CUDA version, which most machines lack. On the GPU Mask R-CNN needs only
two of mmcv's operators, and torchvision's wheels contain both, compiled. The algorithms are the same: RoIAlign with
``aligned`` as in detectron2, and greedy NMS (torchvision sorts stably, so ties keep their order). mmcv still handles
CPU tensors.
"""

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from mmbackbones.errors import InputError

# The modules of mmcv and mmdet that call the operators, each by a name of its own.
CALLERS = {
    'roi_align': ('mmcv.ops.roi_align', 'mmdet.structures.mask.structures'),
    'nms': ('mmcv.ops.nms', 'mmdet.models.dense_heads.ga_rpn_head', 'mmdet.models.test_time_augs.merge_augs'),
}


def torchvision_roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = 'avg',
    aligned: bool = True,
) -> Tensor:
    """mmcv's ``roi_align`` through torchvision.

    Args:
        input: [N, C, H, W] floating.
        rois: [K, 5], image index and x1, y1, x2, y2 in pixels of the image.
        output_size: height and width h, w of a region.
        spatial_scale: pixels of ``input`` per pixel of the image.
        sampling_ratio: samples per bin and side; 0: as many as the bin has pixels.
        pool_mode: ``'avg'``, the only mode of torchvision.
        aligned: whether pixel centres lie at half-integers.

    Returns:
        Tensor: [K, C, h, w], dtype of ``input``.
    """
    from torchvision.ops import roi_align

    if pool_mode != 'avg':
        raise InputError(
            f'roi_layer.pool_mode={pool_mode}: torchvision has only avg, and mmcv was built without CUDA '
            'operators (docs/install.md)'
        )
    # Coordinates in half precision would be whole pixels off at the far end of an image.
    dtype = torch.promote_types(input.dtype, rois.dtype)
    pooled = roi_align(input.to(dtype), rois.to(dtype), output_size, spatial_scale, sampling_ratio, aligned)
    return pooled.to(input.dtype)


def torchvision_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0, score_threshold: float = 0, max_num: int = -1
) -> tuple[Tensor, Tensor]:
    """mmcv's ``nms`` through torchvision.

    Args:
        boxes: [N, 4] x1, y1, x2, y2.
        scores: [N].
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        offset: 1: a box from x1 to x2 is x2 - x1 + 1 wide.
        score_threshold: boxes up to this score are dropped first, if it is positive.
        max_num: largest number of boxes to keep; -1: all.

    Returns:
        tuple[Tensor, Tensor]: kept boxes with their scores [K, 5] and indices int64 [K], best first.
    """
    from torchvision.ops import nms

    candidates = torch.arange(len(scores), device=scores.device)
    if score_threshold > 0:
        candidates = candidates[scores > score_threshold]
    corners = boxes[candidates].float()
    if offset:
        corners = corners + corners.new_tensor([0, 0, offset, offset])
    kept = candidates[nms(corners, scores[candidates].float(), iou_threshold)]
    if max_num > 0:
        kept = kept[:max_num]
    return torch.cat((boxes[kept], scores[kept, None]), 1), kept


def install() -> str:
    """Make mmcv's RoIAlign and NMS call torchvision for CUDA tensors, in this process.

    Returns:
        str: a sentence for the log.

    Raises:
        InputError: torchvision has no compiled operators that fit this torch.
    """
    from torchvision.extension import _has_ops

    if not _has_ops():
        raise InputError(
            'neither mmcv nor torchvision has CUDA operators here: install the torchvision that belongs '
            f'to torch {torch.__version__}, build mmcv with nvcc (docs/install.md), or set '
            'CUDA_VISIBLE_DEVICES="" to run on the CPU'
        )
    for name, theirs in (('roi_align', torchvision_roi_align), ('nms', torchvision_nms)):
        for module in map(importlib.import_module, CALLERS[name]):
            ours = getattr(module, name)
            if not hasattr(ours, 'on_cuda'):
                setattr(module, name, _by_device(ours, theirs))
    return "mmcv was built without CUDA operators: RoIAlign and NMS run on torchvision's"


def _by_device(on_cpu: Callable, on_cuda: Callable) -> Callable:
    @functools.wraps(on_cuda)
    def dispatch(first: Tensor, *args: object, **kwargs: object) -> object:
        return (on_cuda if getattr(first, 'is_cuda', False) else on_cpu)(first, *args, **kwargs)

    dispatch.on_cuda = on_cuda
    return dispatch
