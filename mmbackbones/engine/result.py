"""Results of a training or test: its record, its predictions, and a line for the user."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmbackbones.engine.runner import Runner
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.outputs import OutputFolder, image_ids, plain, scan_backend, task_of
from mmbackbones.evaluation.records import RECORDS, append_record


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
    if folder:
        folder.commit(dict(record, image_ids=image_ids(dataset)))
    if is_main_process():
        append_record(Path(cfg.work_dir, RECORDS), record)


def headline(cfg: Config, metrics: dict) -> str:
    """The main metrics of the task in one line."""
    if task_of(cfg) == 'detection':
        return f'box AP {metrics["coco/bbox_mAP"]:.3f}  mask AP {metrics["coco/segm_mAP"]:.3f}'
    return f'mIoU {metrics["mIoU"]:.2f}'


def paint_into(cfg: Config, folder: str) -> None:
    """Make a configuration write images of predictions and ground truth to a folder."""
    hook = cfg.default_hooks.visualization
    hook.draw, hook.interval = True, 1
    if task_of(cfg) == 'detection':
        hook.test_out_dir = str(Path(folder).absolute())
    else:
        cfg.visualizer.save_dir = str(Path(folder).absolute())
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
