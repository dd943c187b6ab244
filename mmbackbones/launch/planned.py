"""The trainings of a suite as :mod:`mmbackbones.analysis.plan` takes them."""

import functools
import json
from pathlib import Path

from mmengine.config import Config

from mmbackbones.analysis.plan.cost import Job
from mmbackbones.analysis.plan.measured import validates
from mmbackbones.engine.config import load_config, parse_options
from mmbackbones.engine.device import precision
from mmbackbones.errors import InputError
from mmbackbones.launch.suite_file import read_suite

# Images of COCO's training split with objects; mmdet and detectron2 leave out the other 1,021.
KNOWN_IMAGES = {'instances_train2017.json': 117_266}


def jobs_of(path: str | Path, gpus: int | None = None, train_images: int | None = None) -> list[Job]:
    """Read a suite file and every config that it names.

    Args:
        path: the YAML file.
        gpus: replaces the number in the file.
        train_images: images of an epoch, for a data set that is neither COCO's nor here.

    Raises:
        InputError: as :func:`mmbackbones.launch.suite_file.read_suite`.
    """
    file = read_suite(path)
    processes = file.gpus if gpus is None else gpus
    read = functools.cache(lambda config, backbone: load_config(config, parse_options(file.options), backbone))
    jobs = []
    for training in file.trainings:
        cfg = read(training.config, training.backbone)  # the arm changes nothing of what is read here
        batch = cfg.train_dataloader.batch_size
        jobs.append(
            Job(
                training.config,
                training.backbone,
                training.arm,
                file.options,
                parse_options([*file.options, *training.options]),
                training.task,
                len(set(file.seeds)),
                processes,
                iterations_of(cfg, batch * max(processes, 1), train_images),
                batch,
                crop_of(cfg),
                precision(cfg) if processes else 'fp32',
                cfg.get('recipe'),
                file.multi_scale and training.task == 'segmentation',
                'max_epochs' in cfg.train_cfg,
                validates(cfg.train_cfg),
            )
        )
    return jobs


def iterations_of(cfg: Config, batch: int, train_images: int | None = None) -> int | None:
    """Iterations of a training; None if it counts epochs of an unknown number of images.

    Args:
        cfg: its configuration.
        batch: images per iteration of all processes.
        train_images: images of an epoch; by default those of COCO, or of the annotation file if it is here.
    """
    if 'max_epochs' not in cfg.train_cfg:
        return cfg.train_cfg.max_iters
    images = train_images or _images_of(cfg.train_dataloader.dataset)
    return None if images is None else cfg.train_cfg.max_epochs * -(-images // batch)


def _images_of(dataset: dict) -> int | None:
    name = str(dataset.get('ann_file') or '')
    path = Path(dataset.get('data_root') or '', name)
    if Path(name).name in KNOWN_IMAGES:
        return KNOWN_IMAGES[Path(name).name]
    if not name.endswith('.json') or not path.is_file():
        return None
    try:
        truth = json.loads(path.read_text())
        return len({each['image_id'] for each in truth['annotations'] if not each.get('iscrowd')})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: no readable COCO annotations ({error})') from error


def crop_of(cfg: Config) -> int | None:
    """Side of the training's images in pixels if it crops them to a square."""
    steps = cfg.train_dataloader.dataset.get('pipeline') or []
    crops = [step.crop_size for step in steps if step.type == 'RandomCrop' and step.get('crop_size')]
    sides = set(crops[-1]) if crops and not isinstance(crops[-1], int) else set(crops[-1:])
    return sides.pop() if len(sides) == 1 else None
