"""The phases of ``check_gpu``, by name. Imports nothing that takes seconds."""

from typing import NamedTuple


class Phase(NamedTuple):
    """A part of the check that runs in a process of its own.

    Attributes:
        function: ``'module:function'``. The function takes the :class:`Settings` and yields findings.
        purpose: what it does, in one sentence.
        duration: most seconds that it may take; then it is ended.
    """

    function: str
    purpose: str
    duration: float


PHASES = {
    'versions': Phase(
        'mmbackbones.analysis.gpu.versions:findings',
        'Names the card, the driver and the packages, and whether every scan backend can be used.',
        120,
    ),
    'parity': Phase(
        'mmbackbones.analysis.gpu.parity:findings',
        'Compares outputs and gradients of every backend, in every dtype and with every option, and whole mixers, with '
        'the specification in float64.',
        1200,  # nearly all of it is Triton's compiler, the first time
    ),
    'determinism': Phase(
        'mmbackbones.analysis.gpu.determinism:findings',
        'Computes outputs and gradients of scans and mixers twice and compares their bits.',
        300,
    ),
    'benchmark': Phase(
        'mmbackbones.analysis.gpu.benchmark:findings',
        "Times scans at batch 1 to 64 and mixers, by CUDA graph replay and by the wall clock, beside mamba_ssm's "
        'operator where it can be imported.',
        600,
    ),
    'training': Phase(
        'mmbackbones.analysis.gpu.training:findings',
        'Trains a Mask R-CNN on random images in FP16 (on a CPU in FP32) until the loss scaler lets a step pass, and '
        'looks whether loss and weights are finite and how many weights have changed.',
        600,
    ),
}


class Settings(NamedTuple):
    """What all phases are told.

    Attributes:
        device: ``'cuda'`` or ``'cpu'``.
        config: path or name of the detector's config for the training.
        size: side of its images in pixels.
        batch: number of its images.
    """

    device: str
    config: str = 'vmamba/mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco.py'
    size: int = 512
    batch: int = 2
