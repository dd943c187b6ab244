"""What the options of the trainings of miniatures choose from. Imports nothing that takes seconds."""

from mmbackbones.engine.names import run_name
from mmbackbones.zoo.models import miniature_names

TASKS = {
    'detection': 'configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py',
    'segmentation': 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py',
}
# Name of a run -> its task and miniature.
RUNS = {run_name(config, name): (task, name) for task, config in TASKS.items() for name in miniature_names()}
