"""Adapt a configuration to this machine. Each change is reported once."""

import os
from collections.abc import Iterator

import torch
import torch.distributed
from mmengine.config import Config, ConfigDict

from mmbackbones.engine import torchvision_route
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of


def adapt_to_device(cfg: Config, launcher: str) -> list[str]:
    """Change ``cfg`` in place so that it runs on this machine.

    Without CUDA, FP32 replaces AMP (CPU autocast has no FP16, and mmcv's CPU ops take float32 only), gloo replaces
    nccl, and BN replaces SyncBN (DDP refuses it on CPU). With CUDA, torchvision's operators are used if mmcv has none.

    Returns:
        list[str]: one sentence per change.

    Raises:
        InputError: a detector on CUDA with neither mmcv's nor torchvision's CUDA operators, or Slurm without CUDA.
    """
    if torch.cuda.is_available():
        return _provide_cuda_ops(cfg)
    notices = []
    wrapper = cfg.get('optim_wrapper')
    if wrapper and wrapper.type == 'AmpOptimWrapper':
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)
        notices.append('no CUDA: training in FP32, not with automatic mixed precision')
    if list(_replace_sync_bn(cfg.model)):
        notices.append('no CUDA: BN in place of SyncBN')
    if launcher == 'slurm':
        raise InputError('--launcher slurm: no CUDA device here; use tools/dist_train.sh inside the allocation')
    if launcher != 'none':
        cfg.env_cfg.dist_cfg = dict(backend='gloo')
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        notices.append('no CUDA: gloo in place of nccl')
        if not torch.distributed.is_initialized():
            # mmengine's own start-up selects a CUDA device whatever the backend.
            torch.distributed.init_process_group('gloo')
            os.environ.setdefault('LOCAL_RANK', '0')
    return notices


def require_device(device: str | None) -> str:
    """``cpu``, ``cuda`` or ``cuda:N``; None: ``cuda`` where there is a GPU, else ``cpu``.

    Raises:
        InputError: another name, or a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return 'cuda' if count else 'cpu'
    kind, colon, number = device.partition(':')
    if device != 'cpu' and (kind != 'cuda' or bool(colon) != number.isdecimal()):
        raise InputError(f'--device {device}: expected cpu, cuda or cuda:N')
    if device != 'cpu' and int(number or 0) >= count:
        raise InputError(f'--device {device}: not there; {count} CUDA devices are visible')
    return device


def precision(cfg: Config) -> str:
    """``'fp16'``, ``'bf16'`` or ``'fp32'``: the training precision that ``cfg`` asks for."""
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') != 'AmpOptimWrapper':
        return 'fp32'
    return 'bf16' if wrapper.get('dtype') == 'bfloat16' else 'fp16'


def _replace_sync_bn(node: object) -> Iterator[bool]:
    if isinstance(node, dict | ConfigDict):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
            yield True
        for value in list(node.values()):
            yield from _replace_sync_bn(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _replace_sync_bn(value)


def _provide_cuda_ops(cfg: Config) -> list[str]:
    if task_of(cfg) != 'detection':
        return []
    from mmcv.ops import get_compiling_cuda_version

    return [torchvision_route.install()] if get_compiling_cuda_version() == 'not available' else []
