"""Test whether full-size models train on this machine: the command ``train`` on a few real images, from random weights.

Time and memory come from the log of the run and from its record. A loss or gradient that is not finite ends the run
(``mmbackbones.NumericsHook``). After so few iterations scores have no meaning and are not kept.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from mmbackbones.analysis.speed.choices import BASIC as BASIC
from mmbackbones.analysis.tables import write_csv
from mmbackbones.analysis.timing import median
from mmbackbones.engine.config import load_config
from mmbackbones.engine.process import run_logged
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.paths import find_config

COLUMNS = (
    'config',
    'task',
    'batch',
    'iterations',
    'precision',
    'scan_backend',
    'iterations_per_s',
    'peak_mb',
    'first_loss',
    'last_loss',
    'skipped_by_the_loss_scaler',
    'device',
    'torch',
    'python',
    'commit',
    'date',
)


def train(config: str | Path, work_dir: Path, data: dict[str, Path], iterations: int) -> dict[str, object]:
    """Train a config from random weights on the given data, then test the result, like the command ``train``.

    Args:
        config: path or name of a config of either task.
        work_dir: folder of the run; ``train.log`` there has the output of the command.
        data: for each task, ``'detection'`` or ``'segmentation'``, a folder in COCO's or ADE20K's layout.
        iterations: least number of iterations; a detector counts in epochs and finishes the last one.

    Returns:
        dict: the :data:`COLUMNS`. Iterations per second are the median of the log entries without the first fifth,
        loading included. ``peak_mb`` is the most memory that torch held on the device, None on a CPU.

    Raises:
        InputError: no data for the task, or the command failed, as on a loss that is not finite.
    """
    cfg = load_config(str(config))
    task, batch = dense_task_of(cfg), cfg.train_dataloader.batch_size
    if data.get(task) is None:
        raise InputError(f'{config}: no data for {task}')
    root = f'{Path(data[task]).absolute()}/'
    splits = [split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader')]
    options = [
        'model.backbone.init_cfg=None',
        'default_hooks.logger.interval=1',
        'log_processor.window_size=1',
        *(f'{split}_dataloader.dataset.data_root={root}' for split in splits),
    ]
    if task == 'detection':
        options += [f'{split}_evaluator.ann_file={root}annotations/instances_val2017.json' for split in splits[1:]]
    if 'max_epochs' in cfg.train_cfg:
        last, unit = math.ceil(iterations * batch / _images(Path(root))), 'max_epochs'
    else:
        last, unit = iterations, 'max_iters'
    options += [f'train_cfg.{unit}={last}', f'train_cfg.val_interval={last + 1}']
    arguments = [str(find_config(config)), '--work-dir', str(work_dir), '--cfg-options', *options]
    run_logged('train', arguments, work_dir / 'train.log', f'{config}: training')
    record = json.loads((work_dir / 'final' / 'run.json').read_text())
    entries = [entry for entry in read_log(work_dir) if 'loss' in entry]
    steady = entries[len(entries) // 5 :]
    return dict(
        config=Path(config).stem,
        task=task,
        batch=batch,
        iterations=record['iterations'],
        precision=record['precision'],
        scan_backend=record['scan_backend'],
        iterations_per_s=1 / median([entry['time'] for entry in steady]),
        peak_mb=max((entry['memory'] for entry in entries if 'memory' in entry), default=None),
        first_loss=entries[0]['loss'],
        last_loss=entries[-1]['loss'],
        skipped_by_the_loss_scaler=int(max(entry.get('amp_skipped', 0) for entry in entries)),
        device=record['device'],
        torch=record['versions']['torch'],
        python=record['python'],
        commit=record['commit'],
        date=record['date'][:10],
    )


def _images(root: Path) -> int:
    """Images of COCO's training split with objects. mmdet trains only on these."""
    truth = json.loads((root / 'annotations' / 'instances_train2017.json').read_text())
    return len({each['image_id'] for each in truth['annotations'] if not each.get('iscrowd')})


def read_log(work_dir: Path) -> list[dict]:
    """The entries of mmengine's newest log of scalars below a work dir."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def write_rows(path: str | Path, rows: Sequence[dict[str, object]]) -> None:
    """One line per run by :data:`COLUMNS`.

    Raises:
        InputError: the file cannot be written.
    """
    write_csv(path, COLUMNS, rows, '.4g')
