"""What a training or a test leaves: its record, its predictions, and a line for the user."""

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
    """Give the work dir a line in its records, and the predictions the same record.

    Args:
        cfg (Config): the configuration as it ran on this machine.
        identity (dict): keys of the record that say which configuration it is, as taken before it was adapted.
        fingerprints (dict[str, str]): of the data of each split.
        runner (Runner): after the test.
        metrics (dict): what the test gave.
        folder (OutputFolder, optional): of the predictions.
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
    """The metrics that the task is known for, in one line."""
    if task_of(cfg) == 'detection':
        return f'box AP {metrics["coco/bbox_mAP"]:.3f}  mask AP {metrics["coco/segm_mAP"]:.3f}'
    return f'mIoU {metrics["mIoU"]:.2f}'


def paint_into(cfg: Config, folder: str) -> None:
    """Set a configuration to paint predictions beside the ground truth into a folder."""
    hook = cfg.default_hooks.visualization
    hook.draw, hook.interval = True, 1
    if task_of(cfg) == 'detection':
        hook.test_out_dir = str(Path(folder).absolute())
    else:
        cfg.visualizer.save_dir = str(Path(folder).absolute())
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
