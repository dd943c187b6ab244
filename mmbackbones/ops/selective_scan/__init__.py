"""The selective scan of Mamba (Gu & Dao 2023, https://arxiv.org/abs/2312.00752): one function, explicit backends.

``naive`` is the specification, ``chunk`` runs wherever PyTorch does, ``cpu`` is C++, ``triton`` and ``mamba_ssm`` (the
official kernel) are for CUDA. Each is a module or package of its own, see :class:`Backend`.
"""

from mmbackbones.ops.selective_scan.backend import Backend, ScanArguments
from mmbackbones.ops.selective_scan.dispatch import BackendChoice, selective_scan_backend, use_scans
from mmbackbones.ops.selective_scan.op import selective_scan

__all__ = ['Backend', 'BackendChoice', 'ScanArguments', 'selective_scan', 'selective_scan_backend', 'use_scans']
