"""Visual Mamba and its rivals as backbones for dense prediction on OpenMMLab."""

from mmbackbones import needs

__version__ = '0.1.0'

needs.require(('torch',))

from mmbackbones import torchvision_ops  # noqa: E402

# Must precede the first import of torchvision, which timm and mmseg do on their own.
torchvision_ops.declare_if_missing()
