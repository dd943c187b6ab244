"""The command ``publish``: a checkpoint as safetensors with a model card, in a folder that is ready for a hub.

The folder has ``model.safetensors`` (the weights under this project's names, without optimizer, schedule, counters and
objects of code), its SHA-256, ``config.py`` (the whole recipe, without ``_base_``) and ``README.md`` (the model card).
"""

import argparse
import contextlib
import importlib
import json
import re
import shutil
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from safetensors.torch import save
from torch import nn

from mmbackbones.checkpoints.atomic import write_with_checksum
from mmbackbones.checkpoints.layout import find_weights
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.engine.config import load_config, run_name
from mmbackbones.engine.initial_weights import drop_pretrained
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS
from mmbackbones.release.card import Facts, evidence_beside, write_card

WEIGHTS, RECIPE, CARD = 'model.safetensors', 'config.py', 'README.md'


def publish(
    config: str,
    checkpoint: str,
    folder: Path,
    *,
    backbone: str | None = None,
    overrides: dict | None = None,
    records: Path | None = None,
    license_name: str | None = None,
) -> Facts:
    """Write a checkpoint as a folder for a hub.

    Args:
        config: see :func:`mmbackbones.engine.config.load_config`, also for ``backbone`` and ``overrides``.
        checkpoint: see :func:`mmbackbones.checkpoints.load.load_checkpoint`. If it holds averaged weights beside plain
            ones, the plain ones are published, as ``test`` takes them.
        folder: a new folder.
        records: work dir of the run, whose records give the scores; by default the folder of the checkpoint.
        license_name: licence of the weights for the card; None: the card says that none is declared.

    Returns:
        Facts: what the card says.

    Raises:
        InputError: no name of a licence, the folder exists, the checkpoint cannot be read or does not fit, or the disk
            is full.
    """
    if license_name is not None and not re.fullmatch(r'[A-Za-z0-9][\w.+-]*', license_name):
        raise InputError(f'--license {license_name}: expected the name of a licence, such as apache-2.0')
    folder = folder.absolute()
    if folder.exists():
        raise InputError(f'-o {folder}: exists; nothing was overwritten')
    cfg = load_config(config, overrides, backbone)
    content = load_checkpoint(checkpoint).content
    weights, notes = find_weights(content, checkpoint)
    initial = drop_pretrained(cfg)
    model = _build(cfg)
    load_weights(model, weights, name=checkpoint, notes=notes)
    tensors = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    meta = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    assert isinstance(meta, dict)
    evidence = evidence_beside(checkpoint, records, meta.get('iter'))
    facts = Facts(
        name=run_name(config, backbone),
        cfg=cfg,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        initial=initial,
        license_name=license_name,
        classes=_classes(meta),
        notes=notes,
        left_out=sorted(key for key in content if key not in ('state_dict', 'meta')) if 'state_dict' in content else [],
        evidence=evidence,
    )
    partial = folder.with_name(f'.{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        data = save(tensors, metadata=dict(format='pt', config=facts.name, classes=json.dumps(facts.classes)))
        write_with_checksum(partial / WEIGHTS, data)
        (partial / RECIPE).write_text(cfg.dump())
        (partial / CARD).write_text(write_card(facts, (partial / f'{WEIGHTS}.sha256').read_text().split()[0]))
        partial.rename(folder)
    except OSError as error:
        raise InputError(f'-o {folder}: cannot be written: {error.strerror or error}') from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial, ignore_errors=True)
    return facts


def _build(cfg: Config) -> nn.Module:
    scope = cfg.get('default_scope') or 'mmengine'
    if scope in ('mmdet', 'mmseg'):
        importlib.import_module(f'{scope}.models')
    with DefaultScope.overwrite_default_scope(scope), torch.random.fork_rng(devices=[]):
        return MODELS.build(_on_one_device(cfg.model.to_dict()))


def _on_one_device(node: object) -> object:
    """SyncBN asks for a process group; BN has the same weights."""
    if isinstance(node, dict):
        return {
            key: 'BN' if (key, value) == ('type', 'SyncBN') else _on_one_device(value) for key, value in node.items()
        }
    return type(node)(map(_on_one_device, node)) if isinstance(node, list | tuple) else node


def _classes(meta: dict) -> list[str]:
    known = meta.get('dataset_meta')
    return [str(name) for name in known.get('classes') or ()] if isinstance(known, dict) else []


def publish_with(args: argparse.Namespace) -> None:
    """The command with the options of :func:`mmbackbones.release.command_line.publish_parser`."""
    facts = publish(
        args.config,
        args.checkpoint,
        Path(args.out),
        backbone=args.backbone,
        overrides=args.cfg_options,
        records=args.records,
        license_name=args.license,
    )
    print(f'{args.out}: {WEIGHTS} ({facts.parameters:,} parameters), {RECIPE} and {CARD}; {facts.evidence.summary}')
    print(f'After an upload to a hub as owner/name it is checkpoint hf://owner/name/{WEIGHTS}')
