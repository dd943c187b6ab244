"""Short names of networks, for tables and sentences."""

import re
from collections.abc import Sequence
from pathlib import Path

SCHEDULE = re.compile(r'\d+xb\d+')
# Parts of a config's name that say what stands around the backbone; the others before the schedule name the backbone.
AROUND = re.compile(r'(mask|faster|cascade|cascade-mask)-rcnn|retinanet|rtmdet|upernet|fcn(-1x1)?|fpn|sfp|segformer')


def network_of(record: dict) -> str:
    """Name of the backbone in a record: of the zoo, else from the name of the config, else its class; then the arm.

    ``mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco.py`` is ``vmamba-tiny-s1l8``. A config whose name does not follow
    OpenMMLab's convention keeps it.
    """
    parts = Path(record['config']).stem.split('_')
    schedule = next((place for place, part in enumerate(parts) if SCHEDULE.match(part)), None)
    if record.get('backbone'):
        name = str(record['backbone'])
    elif schedule is None:
        name = '_'.join(parts)
    else:
        name = '_'.join(part for part in parts[:schedule] if not AROUND.fullmatch(part)) or _type_of(record)
    arm = record.get('arm')
    return f'{name} {arm}' if arm and arm not in name else name


def _type_of(record: dict) -> str:
    model = record['settings']['model']
    backbone = model.get('backbone') or (model.get('module') or {}).get('backbone') or {}
    return str(backbone.get('type', 'backbone')).rpartition('.')[2]


def unique(names: Sequence[str], places: Sequence[Path]) -> list[str]:
    """The names, with the end of the place behind each that occurs several times."""
    return [
        f'{name} ({"/".join(place.parts[-2:])})' if list(names).count(name) > 1 else name
        for name, place in zip(names, places)
    ]
