"""Directional scans through Triton, see ``host.py``; the kernels are imported at the first launch."""

from mmbackbones.ops.directional_scan.triton.host import backward, forward, shapes

__all__ = ['backward', 'forward', 'shapes']
