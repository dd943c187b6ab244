"""The commands ``train`` and ``test``: from the command line to mmengine's Runner and back."""

import argparse
import gc
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed, is_main_process
from torch.utils.data import Dataset

from mmbackbones.checkpoints.resume import find_newest
from mmbackbones.datasets.check import check_config, share_annotation_files
from mmbackbones.engine.config import Overrides, config_hash, load_config
from mmbackbones.engine.device import adapt_to_device, precision
from mmbackbones.engine.runner import Runner
from mmbackbones.errors import InputError, TrainingStopped
from mmbackbones.evaluation.outputs import OutputFolder, environment, image_ids, plain, scan_backend, task_of
from mmbackbones.evaluation.records import RECORDS, append_record, plain_data, settings_of

BUILD_PREFIX = re.compile(r'class `\w+` in [^:]+: ')
# How Python and mmengine say that a config gives a constructor what it does not take, or names an unknown type.
REFUSED = re.compile(
    r'class `\w+` in |\w+\.__init__\(\) (got an unexpected|missing)|.* is not in the .*registry', re.DOTALL
)


def run_command(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Run a command; bad input ends it with one line on stderr and exit status 2 (others: docs/reliability.md)."""
    exit_code = 0
    try:
        main(argv)
    except InputError as error:
        exit_code = _fail(error)
    except TrainingStopped as error:
        exit_code = _fail(error, error.exit_code)
    except (TypeError, KeyError, ValueError) as error:
        text = str(error.args[0]) if error.args else ''
        if not REFUSED.match(text):
            raise
        exit_code = _fail(text)
    finally:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:
            torch.distributed.destroy_process_group()
    if distributed:
        # The group's threads live as long as a wrapped model does, and runner and hooks refer to each other. A thread
        # that wants something of Python while Python ends aborts the process, whose exit status would be lost.
        gc.collect()
    if exit_code:
        sys.exit(exit_code)


def _fail(error: Exception | str, exit_code: int = 2) -> int:
    print('error: ' + ' '.join(BUILD_PREFIX.sub('', str(error)).split()), file=sys.stderr, flush=True)
    return exit_code


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file (Python code: it is executed)')
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/<config name>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        metavar='KEY=VALUE',
        help='override keys of the config, such as optim_wrapper.optimizer.lr=2e-4',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _prepare(args: argparse.Namespace) -> Config:
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    return cfg


def _say(sentence: str) -> None:
    if int(os.environ.get('RANK', 0)) == 0:
        print(f'*** {sentence}', flush=True)


def _start_on_device(cfg: Config, launcher: str) -> None:
    for notice in adapt_to_device(cfg, launcher):
        _say(notice)
    if launcher != 'none' and not is_distributed():
        # Before the runner does it, so that one process alone prepares folders.
        init_dist(launcher, **cfg.env_cfg.dist_cfg)


def _check_data(cfg: Config, splits: tuple[str, ...]) -> dict[str, str]:
    found = {}
    if is_main_process():
        found = check_config(cfg, splits, json_file=Path(cfg.work_dir, 'data_check.json'), drop_dir=cfg.work_dir)
    share_annotation_files(cfg)
    return found


def _record(
    cfg: Config,
    args: argparse.Namespace,
    identity: dict,
    fingerprint: str | None,
    runner: Runner,
    metrics: dict,
    **more: object,
) -> dict:
    return dict(
        task=task_of(cfg),
        config=Path(args.config).name,
        config_file=str(args.config),
        recipe=cfg.get('recipe'),
        data_fingerprint=fingerprint,
        images=len(runner.test_dataloader.dataset),
        seed=(cfg.get('randomness') or {}).get('seed'),
        world_size=runner.world_size,
        scan_backend=scan_backend(),
        params=sum(parameter.numel() for parameter in runner.model.parameters()),
        metrics=plain(metrics),
        **environment(),
        **identity,
        **more,
    )


def _identity(cfg: Config, options: dict) -> dict:
    """What says which configuration this is, before it is adapted to the machine."""
    return dict(config_hash=config_hash(cfg), settings=settings_of(cfg), options=plain_data(options))


def _keep(record: dict, folder: OutputFolder | None, work_dir: str, dataset: Dataset) -> None:
    """Give the predictions their record, and the work dir its line of it."""
    if folder:
        folder.commit(dict(record, image_ids=image_ids(dataset)))
    if is_main_process():
        append_record(Path(work_dir, RECORDS), record)


def _headline(cfg: Config, metrics: dict) -> str:
    if task_of(cfg) == 'detection':
        return f'box AP {metrics["coco/bbox_mAP"]:.3f}  mask AP {metrics["coco/segm_mAP"]:.3f}'
    return f'mIoU {metrics["mIoU"]:.2f}'


def require_weights(cfg: Config) -> None:
    """Refuse to train from random weights by oversight.

    Raises:
        InputError: the backbone names no weights and does not say ``init_cfg=None`` either.
    """
    backbone = cfg.model.backbone
    if 'init_cfg' in backbone and backbone.init_cfg is None:
        return
    init_cfgs = backbone.get('init_cfg') or []
    init_cfgs = init_cfgs if isinstance(init_cfgs, list) else [init_cfgs]
    if not any(init_cfg.get('checkpoint') for init_cfg in init_cfgs):
        raise InputError(
            f'no pretrained weights are established for {backbone.type} {backbone.get("arch", "")}: set '
            'model.backbone.init_cfg.checkpoint (and model.backbone.init_cfg.type=mmbackbones.Pretrained) to a file '
            'or URL, or model.backbone.init_cfg=None to train from random weights'
        )


def require_class_count(cfg: Config, dataset: Dataset) -> None:
    """Refuse heads for another number of classes than the data set has; the frameworks train on in silence."""
    classes = len(dataset.metainfo['classes'])
    model = cfg.model.get('module', cfg.model)
    heads = {f'model.{name}': model[name] for name in ('decode_head', 'auxiliary_head') if model.get(name)}
    if 'roi_head' in model:
        heads |= {f'model.roi_head.{name}': model.roi_head[name] for name in ('bbox_head', 'mask_head')}
    for key, head in heads.items():
        if isinstance(head, dict) and head.get('num_classes', classes) != classes:
            raise InputError(
                f'{key}.num_classes={head.num_classes}, but the data set has {classes} classes: '
                f'{", ".join(dataset.metainfo["classes"][:5])}{", …" if classes > 5 else ""}'
            )


def _resume(cfg: Config, choice: str) -> None:
    """Set ``load_from`` and ``resume`` from ``--resume``; the weights then come from that checkpoint alone."""
    if choice in ('required', 'auto'):
        found, skipped = find_newest(cfg.work_dir)
        for sentence in skipped:
            _say(sentence)
        if found is None and skipped:
            raise InputError(f'--resume: no checkpoint in {cfg.work_dir} is whole; remove them to start afresh')
        if found is None and choice == 'required':
            raise InputError(
                f'--resume: no checkpoint in {cfg.work_dir}; --resume auto starts afresh, --resume PATH names one'
            )
        if found is None:
            _say(f'--resume auto: no checkpoint in {cfg.work_dir}, starting afresh')
            return
        choice = str(found)
    cfg.load_from, cfg.resume = choice, True
    cfg.model.backbone.init_cfg = None
    _say(f'resuming from {choice}')


def train(argv: list[str] | None = None) -> None:
    """``tools/train.py CONFIG``: train, then test the last checkpoint and keep its predictions in WORK_DIR/final."""
    parser = _parser('Train a detector or segmentor, then test its last checkpoint.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='required',
        metavar='auto|PATH',
        help='continue from the newest checkpoint of the work dir, which must exist; auto: or start '
        'if there is none; PATH: from that checkpoint',
    )
    parser.add_argument('--amp', action='store_true', help='FP16 automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size')
    args = parser.parse_args(argv)

    cfg = _prepare(args)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    options = dict(args.cfg_options or {})
    if args.amp:
        options |= {f'optim_wrapper.{key}': cfg.optim_wrapper[key] for key in ('type', 'loss_scale')}
    if args.auto_scale_lr:
        options['auto_scale_lr.enable'] = True
    identity, wanted = _identity(cfg, options), precision(cfg)
    if args.resume:
        _resume(cfg, args.resume)
    elif not cfg.get('load_from'):
        require_weights(cfg)
    _start_on_device(cfg, args.launcher)
    fingerprints = _check_data(cfg, ('train', 'val', 'test'))

    folder = OutputFolder(Path(cfg.work_dir, 'final'), replace=True)
    folder.attach(cfg.test_evaluator)
    runner = Runner.from_cfg(cfg)
    require_class_count(cfg, runner.test_dataloader.dataset)
    started = time.monotonic()
    runner.train()
    trained = time.monotonic()
    metrics = runner.test()
    record = _record(
        cfg,
        args,
        identity,
        fingerprints.get('test'),
        runner,
        metrics,
        kind='train',
        train_fingerprint=fingerprints.get('train'),
        precision=precision(cfg),
        recipe_precision=wanted,
        tta=False,
        iterations=runner.iter,
        resumed=bool(cfg.resume),
        train_seconds=round(trained - started, 1),
        test_seconds=round(time.monotonic() - trained, 1),
    )
    _keep(record, folder, cfg.work_dir, runner.test_dataloader.dataset)
    _say(f'{_headline(cfg, metrics)}  (last checkpoint; predictions and record in {folder.path})')


def test(argv: list[str] | None = None) -> None:
    """``tools/test.py CONFIG CHECKPOINT``: box and mask AP, or single- or multi-scale mIoU."""
    parser = _parser('Test a checkpoint.')
    parser.add_argument('checkpoint', help='file, https:// or hf://owner/name/file')
    parser.add_argument('--tta', action='store_true', help='multi-scale and flip test (segmentors)')
    parser.add_argument('--out', metavar='DIR', help='keep predictions and record in this new folder')
    parser.add_argument('--show-dir', metavar='DIR', help='paint predictions beside ground truth into this folder')
    args = parser.parse_args(argv)

    cfg = _prepare(args)
    identity, task = _identity(cfg, args.cfg_options or {}), task_of(cfg)
    if args.tta:
        if task == 'detection':
            raise InputError("--tta: for segmentors only; mmdet's test-time augmentation of Mask R-CNN has no masks")
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            raise InputError(f'--tta: {args.config} has no tta_model and tta_pipeline')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    if args.show_dir:
        _paint_into(cfg, args.show_dir, task)
    _start_on_device(cfg, args.launcher)
    fingerprints = _check_data(cfg, ('test',))

    folder = OutputFolder(args.out) if args.out else None
    if folder:
        folder.attach(cfg.test_evaluator)
    cfg.load_from = args.checkpoint
    runner = Runner.from_cfg(cfg)
    require_class_count(cfg, runner.test_dataloader.dataset)
    started = time.monotonic()
    metrics = runner.test()
    record = _record(
        cfg,
        args,
        identity,
        fingerprints.get('test'),
        runner,
        metrics,
        kind='test',
        precision='fp32',
        tta=args.tta,
        checkpoint=Path(args.checkpoint).name,
        test_seconds=round(time.monotonic() - started, 1),
    )
    _keep(record, folder, cfg.work_dir, runner.test_dataloader.dataset)
    where = f'  (predictions and record in {folder.path})' if folder else ''
    _say(f'{_headline(cfg, metrics)}{"  multi-scale" if args.tta else ""}{where}')


def _paint_into(cfg: Config, folder: str, task: str) -> None:
    hook = cfg.default_hooks.visualization
    hook.draw, hook.interval = True, 1
    if task == 'detection':
        hook.test_out_dir = str(Path(folder).absolute())
    else:
        cfg.visualizer.save_dir = str(Path(folder).absolute())
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
