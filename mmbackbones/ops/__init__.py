"""Operators: the selective scan, scans of a map in several directions, and the index orders of such scans."""

from mmbackbones.ops.directional_scan import directional_scan
from mmbackbones.ops.selective_scan import selective_scan

__all__ = ['directional_scan', 'selective_scan']
