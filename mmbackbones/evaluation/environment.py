"""Where a number comes from: versions, device, commit and date. Every record and every measured table says this."""

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from mmbackbones.paths import PACKAGE

PACKAGES = (
    'torch',
    'torchvision',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
    'timm',
    'numpy',
    'mmbackbones',
)


def environment() -> dict:
    """The part of a record that describes the machine and the software.

    Returns:
        dict: ``versions`` (by package), ``python``, ``device``, ``commit`` (see :func:`commit`) and ``date`` (UTC, ISO
        8601, to the second).
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_device()
    return dict(
        versions=installed(PACKAGES),
        python=platform.python_version(),
        device=device,
        commit=commit(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    )


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the installed ones of these packages."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> str | None:
    """Commit of this source tree, with ``+`` if tracked files differ from it; None if git does not track the tree.

    A package that is installed within the checkout of another project has no commit: that project does not track it.
    """
    try:
        _git('ls-files', '--error-unmatch', '__init__.py')
        return _git('describe', '--always', '--abbrev=12', '--dirty=+', '--exclude=*')
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ['git', '-C', str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cpu_device() -> str:
    """What a record names as the device of a run on the CPU."""
    return f'{cpu_model()} CPU'


def cpu_model() -> str:
    """Name of the processor with its family and model on Linux; elsewhere the name that Python reports."""
    cpuinfo = Path('/proc/cpuinfo')
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(':')
        facts.setdefault(name.strip(), value.strip())
    if 'model name' not in facts:
        return platform.processor() or platform.machine()
    return f'{facts["model name"]} (family {facts["cpu family"]}, model {facts["model"]})'
