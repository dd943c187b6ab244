"""Selective scans of one map in several directions, from the tokens to the gated sum: what a visual Mamba mixer does
between its first and its last projection.

``composed.py`` is a composition of torch operations and :func:`selective_scan`. Where the selective scan's backend is
Triton, the same is done by kernels (``triton/``): the tokens are not copied into another order and nothing is flipped,
convolution and dt are computed where the scan reads them, the directions are summed where they are written, and
gate and output are passed over once.
"""

from mmbackbones.ops.directional_scan.arguments import DirectionalArguments
from mmbackbones.ops.directional_scan.op import directional_scan, project_tokens

__all__ = ['DirectionalArguments', 'directional_scan', 'project_tokens']
