"""The backbones, one family per file. Importing this package registers them."""

from mmbackbones.backbones.efficientvmamba import EfficientVMamba
from mmbackbones.backbones.gated_mixer_net import GatedMixerNet
from mmbackbones.backbones.hvittt import HViTTT
from mmbackbones.backbones.isotropic_mixer_net import IsotropicMixerNet
from mmbackbones.backbones.local_vmamba import LocalVMamba
from mmbackbones.backbones.localvim import LocalVim
from mmbackbones.backbones.mamba import Mamba
from mmbackbones.backbones.mambaout import MambaOut
from mmbackbones.backbones.mambavision import MambaVision
from mmbackbones.backbones.mila import MILA
from mmbackbones.backbones.plainmamba import PlainMamba
from mmbackbones.backbones.plainmamba_adapter import PlainMambaAdapter
from mmbackbones.backbones.ravlt import RAVLT
from mmbackbones.backbones.spatialmamba import SpatialMamba
from mmbackbones.backbones.timm_backbone import TimmBackbone
from mmbackbones.backbones.transnext import TransNeXt
from mmbackbones.backbones.vim import Vim
from mmbackbones.backbones.vmamba import VMamba
from mmbackbones.backbones.vssd import VSSD

__all__ = [
    'MILA',
    'RAVLT',
    'VSSD',
    'EfficientVMamba',
    'GatedMixerNet',
    'HViTTT',
    'IsotropicMixerNet',
    'LocalVMamba',
    'LocalVim',
    'Mamba',
    'MambaOut',
    'MambaVision',
    'PlainMamba',
    'PlainMambaAdapter',
    'SpatialMamba',
    'TimmBackbone',
    'TransNeXt',
    'VMamba',
    'Vim',
]
