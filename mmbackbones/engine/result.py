"""Results of a training or test: its record, its predictions, and a line for the user."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmbackbones.engine.runner import Runner
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.metric_names import format_metric, main_metrics
from mmbackbones.evaluation.outputs import OutputFolder, image_ids, left_out, plain, scan_backend, task_of
from mmbackbones.evaluation.records import RECORDS, append_record

SHOWN = 6  # metrics in the line for the user


def keep_result(
    cfg: Config,
    identity: dict,
    fingerprints: dict[str, str],
    runner: Runner,
    metrics: dict,
    folder: OutputFolder | None,
    facts: dict,
) -> None:
    """Append a record to the work dir and write the same record beside the predictions.

    Args:
        cfg (Config): the configuration as it ran on this machine.
        identity (dict): keys of the record that identify the configuration before it was adapted to the machine.
        fingerprints (dict[str, str]): fingerprint of the data of each split.
        runner (Runner): the runner after the test.
        metrics (dict): results of the test.
        folder (OutputFolder, optional): folder of the predictions.
        facts (dict): further keys of the record.
    """
    dataset = runner.test_dataloader.dataset
    record = dict(
        task=task_of(cfg),
        recipe=cfg.get('recipe'),
        data_fingerprint=fingerprints.get('test'),
        images=len(dataset),
        seed=(cfg.get('randomness') or {}).get('seed'),
        world_size=runner.world_size,
        scan_backend=scan_backend(),
        params=sum(parameter.numel() for parameter in runner.model.parameters()),
        metrics=plain(metrics),
        **environment(),
        **identity,
        **facts,
    )
    if without := left_out(metrics):
        record['metrics_without_value'] = without
    if folder:
        folder.commit(dict(record, image_ids=image_ids(dataset)))
    if is_main_process():
        append_record(Path(cfg.work_dir, RECORDS), record)


def headline(cfg: Config, metrics: dict) -> str:
    """The main metrics in one line; what is not there is said."""
    numbers, without = plain(metrics), left_out(metrics)
    shown = [f'{label} {format_metric(label, value)}' for label, value in main_metrics(numbers).items()]
    line = '  '.join(shown[:SHOWN])
    if len(shown) > SHOWN:
        line += f'  and {len(shown) - SHOWN} more in the record'
    if 'n/a' in line:
        line += '  (n/a: the test data has no objects to find)'
    if without:
        line += f'{"  " if line else ""}without a value: {", ".join(without[:SHOWN])}'
    return line or _nothing(cfg)


def _nothing(cfg: Config) -> str:
    evaluator = cfg.test_evaluator
    evaluators = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    if all(metric.get('format_only') for metric in evaluators):
        return 'no score: format_only=True only keeps predictions'
    if task_of(cfg) == 'detection':
        return 'no score: the evaluators report none; nothing was detected, or they only keep predictions'
    return 'no score: the evaluators report none'


def paint_into(cfg: Config, folder: str) -> None:
    """Make a configuration write images of predictions and ground truth to a folder."""
    task = task_of(cfg)
    detection = task == 'detection'
    if task == 'classification':
        raise InputError('--show-dir: for detectors and segmentors; a classifier draws nothing into its images')
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('visualization') or dict(
        type='mmdet.DetVisualizationHook' if detection else 'mmseg.SegVisualizationHook'
    )
    hook.update(draw=True, interval=1)
    visualizer = cfg.get('visualizer') or dict(
        type='mmdet.DetLocalVisualizer' if detection else 'mmseg.SegLocalVisualizer', name='visualizer'
    )
    if detection:
        hook['test_out_dir'] = str(Path(folder).absolute())
    else:
        visualizer.update(save_dir=str(Path(folder).absolute()), vis_backends=[dict(type='LocalVisBackend')])
    cfg.default_hooks = {**hooks, 'visualization': hook}
    cfg.visualizer = visualizer
