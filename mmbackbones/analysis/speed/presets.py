"""The measurements behind published claims, by name. Imports nothing that takes seconds."""

from dataclasses import dataclass

from mmbackbones.choices import ATTENTION


@dataclass(frozen=True)
class Preset:
    """A published measurement: configs by name (:func:`mmbackbones.paths.find_config`), and the source's claim."""

    configs: tuple[str, ...]
    sizes: tuple[int, ...]
    attention: tuple[str, ...]
    batch: dict[str, int]
    precision: dict[str, str]
    claim: str


COCO = 'mask-rcnn_{}_8xb2-amp-1x_coco.py'


def _files(*names: str) -> tuple[str, ...]:
    """Detectors' configs of networks, such as ``vmamba/vmamba-tiny-s1l8_fpn``."""
    return tuple(f'{family}/{COCO.format(network)}' for family, network in (name.split('/') for name in names))


PRESETS = {
    'vim-1248': Preset(
        configs=('vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py', 'deit/mask-rcnn_deit-tiny_sfp_8xb2-amp-1x_coco.py'),
        sizes=(224, 512, 640, 736, 1024, 1248, 2048),
        attention=ATTENTION,
        batch={'cuda': 32, 'cpu': 1},
        precision={'cuda': 'fp16', 'cpu': 'fp32'},
        claim='Vim (arXiv 2401.09417, abstract): 2.8 times as fast as DeiT and 86.8 % less GPU memory in batch '
        'inference on 1248x1248 px images, from before attention was fused; the batch is not stated there, ours is '
        '32 (fp16) on CUDA and 1 (fp32) on a CPU unless --batch and --precision say otherwise',
    ),
    'large-4096': Preset(
        configs=_files(
            'convnext/convnext-tiny_fpn',
            'mambaout/mambaout-tiny_fpn',
            'vim/vim-tiny_sfp',
            'vmamba/vmamba-tiny-s1l8_fpn',
        ),
        sizes=(2048, 4096),
        attention=(),
        batch={'cuda': 1, 'cpu': 1},
        precision={'cuda': 'fp16', 'cpu': 'fp32'},
        claim='visual Mamba is said to need 30 % less memory than a convolutional network on 4096x4096 px images; '
        'networks, precision and batch are not stated with the claim',
    ),
    'rivals': Preset(
        configs=_files(
            'vmamba/vmamba-tiny-s1l8_fpn',
            'convnext/convnext-tiny_fpn',
            'spatialmamba/spatialmamba-tiny_fpn',
            'vssd/vssd-tiny_fpn',
            'mila/mila-tiny_fpn',
            'hvittt/hvittt-tiny_fpn',
            'ravlt/ravlt-tiny_fpn',
            'transnext/transnext-tiny_fpn',
        ),
        sizes=(512, 1024),
        attention=(),
        batch={'cuda': 32, 'cpu': 1},
        precision={'cuda': 'fp16', 'cpu': 'fp32'},
        claim='no claim of a paper: mixers that are no four-direction scans, beside VMamba-T and ConvNeXt-T',
    ),
}
