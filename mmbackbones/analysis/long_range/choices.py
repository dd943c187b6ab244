"""What the options of the long-range task choose from. Imports nothing that takes seconds."""

from mmbackbones.layers.mixer_names import MIXING, POINTWISE

KERNELS = {'dw3': 3, 'dw7': 7}
MIXERS = ('identity', *KERNELS, *MIXING, *POINTWISE)
POSITIONS = ('none', 'sincos')
STEPS = {'row': 300, 'routed': 700, 'single': 300}  # of a training, by task
