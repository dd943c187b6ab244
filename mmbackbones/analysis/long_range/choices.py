"""What the options of the long-range task choose from. Imports nothing that takes seconds."""

from mmbackbones.layers.arms import ARMS
from mmbackbones.layers.mixer_names import MIXING, POINTWISE

KERNELS = {'dw3': 3, 'dw7': 7}
# The positive control of each task: it sees all that the task asks for, and needs no schedule of its own to learn it.
CONTROLS = {'row': 'row-max', 'routed': 'image-max', 'single': 'image-max'}
# Mixers that take turns from block to block, as in the controlled experiment.
HYBRIDS = {'hybrid': tuple(ARMS['GatedMixerNet']['hybrid-all'][0])}
MAXIMA = tuple(dict.fromkeys(CONTROLS.values()))
MIXERS = ('identity', *KERNELS, *MIXING, *HYBRIDS, *POINTWISE, *MAXIMA)
POSITIONS = ('none', 'sincos')
STEPS = {'row': 300, 'routed': 700, 'single': 300}  # of a training, by task
CURRICULA = ('none', 'grid', 'distance', 'copies')
DRAWS = ('in-turn', 'per-step', 'on-device')
PRECISIONS = ('fp32', 'bf16', 'fp16')
DEVICES = ('cpu', 'cuda')
