"""The common part of the records of all measurements of a config."""

from pathlib import Path

from mmengine.config import Config

from mmbackbones.engine.config import config_hash
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.evaluation.records import REQUIRED


def config_record(kind: str, cfg: Config, config: str | Path, metrics: dict, **more: object) -> dict:
    """A record of a config, see :mod:`mmbackbones.evaluation.records`. Keys that are not given are None.

    Args:
        kind: kind of the record, such as ``'speed'``.
        cfg: the configuration.
        config: file of the configuration.
        metrics: the measurements.
        more: further keys; they go before those of the environment.
    """
    found = dict(
        dict.fromkeys(REQUIRED),
        kind=kind,
        task=dense_task_of(cfg),
        config=Path(config).name,
        config_hash=config_hash(cfg),
        recipe=cfg.get('recipe'),
        metrics=metrics,
        **environment(),
    )
    return found | more
