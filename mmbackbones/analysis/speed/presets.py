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
    )
}
