"""The phase ``versions``: the card, the driver, the packages, and whether every scan backend can be used."""

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from mmbackbones.analysis.gpu.choices import Settings
from mmbackbones.analysis.gpu.findings import FAILED, SKIPPED, Finding, guarded
from mmbackbones.choices import BACKENDS
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import cpu_model
from mmbackbones.ops.selective_scan import selective_scan_backend

PACKAGES = (
    'torch',
    'triton',
    'torchvision',
    'numpy',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
    'timm',
    'mamba-ssm',
    'causal-conv1d',
)
OPTIONAL = ('triton', 'mamba-ssm', 'causal-conv1d')
QUERY = ('nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader')


def findings(settings: Settings) -> Iterator[Finding]:
    """A row for the machine, one for each package and one for each backend of the scan."""
    yield guarded('Python', lambda: dict(version=f'{platform.python_version()}, {platform.platform()}'))
    yield guarded('processor', lambda: dict(version=cpu_model()))
    if settings.device == 'cuda':
        yield guarded('card', _card)
    yield guarded('driver', lambda: answer(QUERY))
    yield guarded('nvcc', lambda: answer(('nvcc', '--version'), 'release'))
    for name in PACKAGES:
        yield guarded(name, lambda name=name: _package(name))
    yield guarded('CUDA of torch', lambda: dict(version=torch.version.cuda or 'none, a CPU build'))
    yield guarded('operators of mmcv', _operators_of_mmcv)
    yield guarded('the scan by default', lambda: default_backend(settings.device))
    for name in BACKENDS:
        yield guarded(f'backend {name}', lambda name=name: _usable(settings.device, name))


def _card() -> dict[str, str]:
    card = torch.cuda.get_device_properties(0)
    return dict(
        version=f'{card.name}, sm_{card.major}{card.minor}, {card.multi_processor_count} multiprocessors, '
        f'{card.total_memory / 2**30:.0f} GiB'
    )


def answer(command: Sequence[str], word: str = '') -> dict[str, str]:
    """First line with a word that a program prints.

    Raises:
        InputError: there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise InputError(f'no {command[0]} on PATH')
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(version=next(line.strip() for line in lines if word in line))


def _package(name: str) -> Finding:
    try:
        return Finding(name, figures=dict(version=version(name)))
    except PackageNotFoundError:
        return Finding(name, SKIPPED if name in OPTIONAL else FAILED, note='not installed')


def _operators_of_mmcv() -> Mapping[str, str]:
    from mmcv.ops import get_compiling_cuda_version

    return dict(version=f'compiled for CUDA: {get_compiling_cuda_version()}')


def default_backend(device: str) -> Finding:
    """Without a fast backend on CUDA nothing else makes sense, so this is a failure."""
    try:
        chosen = selective_scan_backend(device)
    except InputError as error:
        return Finding('the scan by default', FAILED, note=str(error))
    return Finding('the scan by default', figures=dict(version=f'{chosen.name}: {chosen.reason}'))


def _usable(device: str, name: str) -> Mapping[str, str]:
    selective_scan_backend(device, name)
    return dict(version='can be used')
