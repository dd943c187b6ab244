"""The resolution sweep: test one checkpoint, or train one config, at several input sizes.

Every size is a run of the command ``test`` or ``train`` in its own process and folder. Finished sizes are not run
again, and a size that fails does not stop the others.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmbackbones.analysis.tables import make_folder
from mmbackbones.analysis.tokens.sweep_points import SweepPoint, measure
from mmbackbones.engine.config import config_hash, load_config, parse_options
from mmbackbones.engine.process import run_logged
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import RECORD, dense_task_of
from mmbackbones.evaluation.predictions import load_run
from mmbackbones.paths import find_config

RESIZES = ('Resize', 'RandomResize')
FIXED = (
    'LoadImageFromFile',
    'LoadAnnotations',
    'RandomFlip',
    'RandomCrop',
    'PhotoMetricDistortion',
    'PackDetInputs',
    'PackSegInputs',
)
UNBOUND = 4  # long side in short sides, where a pipeline sets no bound


def write_config(config: str, size: int, folder: Path, trained: bool, options: dict | None = None) -> Path:
    """Write a config of the same name that differs from ``config`` only in its input size.

    Args:
        config: path of the config.
        size: short side in pixels; if the config crops in training, crops are squares of this side.
        folder: folder of the new config.
        trained: whether the training also has this size.
        options: overrides, as for ``--cfg-options``.

    Raises:
        InputError: a pipeline resizes in an unsupported way.
    """
    cfg = load_config(config, options)
    text = f'_base_ = {str(Path(config).absolute())!r}\n'
    for split in ('train', 'val', 'test') if trained else ('test',):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            steps = resized(_pipeline(loader, split), size, f'{split}_dataloader.dataset.pipeline')
            text += f'{split}_dataloader = dict(dataset=dict(pipeline={steps!r}))\n'
    if trained and cfg.model.get('data_preprocessor', {}).get('size'):
        text += f'model = dict(data_preprocessor=dict(size=({size}, {size})))\n'
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(config).name
    path.write_text(text)
    return path


def _pipeline(loader: Config, split: str) -> list[dict]:
    if 'pipeline' not in loader.dataset:
        raise InputError(f'{split}_dataloader.dataset: has no pipeline of its own to resize')
    return [step.to_dict() for step in loader.dataset.pipeline]


def resized(pipeline: Sequence[dict], size: int, name: str) -> list[dict]:
    """A pipeline whose images have a short side of ``size``. The limit of the long side keeps its ratio."""
    steps = copy.deepcopy(list(pipeline))
    unknown = [step['type'] for step in steps if step['type'] not in (*RESIZES, *FIXED)]
    if unknown or sum(step['type'] in RESIZES for step in steps) > 1:
        raise InputError(
            f'{name}: cannot be set to {size} px; expected at most one of {", ".join(RESIZES)} and '
            f'{", ".join(FIXED)}' + (f', not {unknown[0]}' if unknown else '')
        )
    if not any(step['type'] in RESIZES for step in steps):
        # Training labels are resized with their image; a segmentor is scored at the image's own size.
        training = any(step['type'] in ('RandomCrop', 'RandomFlip') for step in steps)
        steps.insert(2 if training else 1, dict(type='Resize', keep_ratio=True))
    for step in steps:
        if step['type'] in RESIZES:
            step.pop('scale_factor', None)
            bound = step.get('scale') or (UNBOUND, 1)
            step['scale'] = (round(max(bound) / min(bound) * size), size)
        elif step['type'] == 'RandomCrop':
            step['crop_size'] = (size, size)
    return steps


def run_size(config: str, checkpoint: str | None, size: int, folder: Path, options: Sequence[str] = ()) -> None:
    """Test ``checkpoint``, or train if there is none, at one size, unless this run is finished.

    Raises:
        InputError: the command failed, or the folder has another run.
    """
    given = parse_options(options)
    cfg_file = write_config(config, size, folder / 'configs' / str(size), checkpoint is None, given)
    out = folder / str(size)
    if (out / RECORD).is_file() or (out / 'final' / RECORD).is_file():
        done, wanted = load_run(out).record, dict(config_hash=config_hash(load_config(str(cfg_file), given)))
        wanted |= dict(checkpoint=Path(checkpoint).name) if checkpoint else {}
        if any(done.get(key) != value for key, value in wanted.items()):
            raise InputError(f'{out}: holds another run; choose another --out')
        return
    what, log = f'size {size}', folder / f'{size}.log'
    more = ['--cfg-options', *options] if options else []
    if checkpoint:
        place = ['--out', str(out), '--work-dir', str(folder / 'work' / str(size))]
        run_logged('test', [str(cfg_file), checkpoint, *place, *more], log, what)
    else:
        run_logged('train', [str(cfg_file), '--resume', 'auto', '--work-dir', str(out), *more], log, what)


def sweep(
    config: str,
    checkpoint: str | None,
    sizes: Sequence[int],
    folder: Path,
    options: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[SweepPoint], list[str]]:
    """Run all sizes and score the finished ones.

    Args:
        config: path or name of the config.
        checkpoint: checkpoint to test; None to train at each size.
        sizes: short sides in pixels.
        folder: folder for configs, logs and runs.
        options: ``KEY=VALUE`` overrides for every run.
        resamples, seed: number of resamples and seed of the bootstrap.

    Returns:
        The points, and one sentence for each size that failed.

    Raises:
        InputError: bad sizes or config, or no size finished.
    """
    if not sizes or min(sizes) < 32:
        raise InputError(f'--sizes {" ".join(map(str, sizes))}: expected short sides of 32 px and more')
    config = str(find_config(config))
    dense_task_of(load_config(config, parse_options(options)))
    folder = make_folder(folder).absolute()
    runs, faults = {}, []
    for size in sorted(set(sizes)):
        try:
            run_size(config, checkpoint and _absolute(checkpoint), size, folder, options)
            runs[size] = load_run(folder / str(size))
        except InputError as error:
            faults.append(str(error))
    if not runs:
        raise InputError('; '.join(faults))
    return measure(runs, resamples, seed), faults


def _absolute(checkpoint: str) -> str:
    return checkpoint if '://' in checkpoint else str(Path(checkpoint).absolute())
