"""What options choose from: those of the data check and of the long-range task. Imports nothing."""

SPLITS = ('train', 'val', 'test')
# Of the long-range task, see :mod:`mmbackbones.datasets.long_range`.
TASKS = ('row', 'routed', 'single')
CUE_SIDES = ('left', 'right', 'random', 'none')
