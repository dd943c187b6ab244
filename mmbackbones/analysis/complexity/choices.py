"""What the options of the counts choose from. Imports nothing that takes seconds."""

from mmbackbones.layers.arms import ARMS

MIXERS = tuple(dict.fromkeys(arm.rpartition('-')[0] or arm for arm in ARMS['GatedMixerNet']))
