"""Let torchvision's Python part work beside a torch that its compiled part does not match.

The package index ships torchvision built for CUDA. Beside a CPU-only torch its library of compiled operators does
not load, and then ``import torchvision`` fails, because it registers shape functions for two operators that do not
exist (``RuntimeError: operator torchvision::nms does not exist``). timm imports torchvision, and so does mmseg.
Neither of them calls these operators; declaring their schemas is all that the import needs. Detection uses mmcv's
NMS. Where the two packages match, nothing is declared.
"""

import ctypes
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)
_library = None


def _compiled_part_loads(package: Path) -> bool:
    """Whether torchvision's operator library can be linked against the torch that is loaded."""
    libraries = [path for path in package.glob('_C*') if path.suffix in ('.so', '.pyd')]
    try:
        for path in libraries:
            ctypes.CDLL(str(path))
    except OSError:
        return False
    return bool(libraries)


def declare_if_missing() -> bool:
    """Declare ``torchvision::nms`` and ``qnms`` where torchvision cannot bring them itself.

    Returns:
        bool: True if the schemas stand in for the compiled operators, which are then unusable.
    """
    global _library
    if _library is not None:
        return True
    spec = importlib.util.find_spec('torchvision')
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, 'nms'):
        return False
    if _compiled_part_loads(Path(spec.origin).parent):
        return False
    _library = torch.library.Library('torchvision', 'DEF')
    for schema in _SCHEMAS:
        _library.define(schema)
    return True
