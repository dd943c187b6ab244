"""The commands ``train`` and ``test``: from the command line to mmengine's Runner and back."""

import argparse
import contextlib
import copy
import os
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed, is_main_process

from mmbackbones.checkpoints.resume import find_newest
from mmbackbones.checkpoints.sources import split_checksum
from mmbackbones.engine.checks import check_data, require_weights
from mmbackbones.engine.classifiers import use_published_test
from mmbackbones.engine.command import run_command, say
from mmbackbones.engine.command_line import test_parser, train_parser
from mmbackbones.engine.config import ARM_KEY, arm_of_config, config_hash, load_config, run_name
from mmbackbones.engine.device import adapt_to_device, precision
from mmbackbones.engine.initial_weights import drop_pretrained
from mmbackbones.engine.preflight import require_runnable, require_workable, try_out
from mmbackbones.engine.result import headline, keep_result, paint_into
from mmbackbones.engine.runner import Runner
from mmbackbones.engine.work_dir import only_training, set_earlier_aside
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import OutputFolder, name_images, task_of
from mmbackbones.evaluation.records import plain_data, settings_of
from mmbackbones.output_paths import require_folder

__all__ = ['run_command', 'test', 'train']


def train(argv: list[str] | None = None) -> None:
    """``tools/train.py CONFIG``: train, test the last checkpoint and write its predictions to WORK_DIR/final."""
    train_with(train_parser().parse_args(argv))


def train_with(args: argparse.Namespace) -> None:
    """The same with the options of :func:`train_parser`."""
    cfg = _prepare(args)
    require_workable(cfg, training=True)
    options = _training_options(cfg, args)
    recipe = _as_asked_for(cfg)
    identity, wanted = _identity(cfg, args, options), precision(cfg)
    _start_on_device(cfg, args.launcher)
    with contextlib.ExitStack() as held:
        if is_main_process():
            for folder in _folders(cfg):
                if warning := held.enter_context(only_training(folder)):
                    say(f'warning: {warning}')
        _train(cfg, recipe, args.resume, identity, wanted)


def _train(cfg: Config, recipe: Config, resume: str | None, identity: dict, wanted: str) -> None:
    """Train and test in folders that no other training writes to."""
    if cfg.get('resume') and not resume:  # mmengine's way to say it
        resume = cfg.get('load_from') or 'auto'
    cfg.resume = False
    if resume:
        _resume(cfg, resume)
    if not cfg.resume and cfg.get('load_from'):
        _start_from(cfg)
    elif not cfg.resume:
        require_weights(cfg)
    fingerprints = check_data(cfg, ('train', 'val', 'test'))

    folder = OutputFolder(Path(cfg.work_dir, 'final'), replace=True)
    runner = _runner(cfg, folder, recipe)
    if is_main_process():
        source = dict(resumed=cfg.load_from) if cfg.resume else dict(load_from=cfg.get('load_from'))
        for sentence in set_earlier_aside(_folders(cfg), **source):
            say(sentence)
    runner.save_recipe(replace=True)
    started = time.monotonic()
    runner.train()
    trained = time.monotonic()
    metrics = runner.test()
    facts = dict(
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
    keep_result(cfg, identity, fingerprints, runner, metrics, folder, facts)
    say(f'{headline(cfg, metrics)}  (last checkpoint; {folder.summary()})')


def test(argv: list[str] | None = None) -> None:
    """``tools/test.py CONFIG CHECKPOINT``: compute box and mask AP, or single- or multi-scale mIoU."""
    test_with(test_parser().parse_args(argv))


def test_with(args: argparse.Namespace) -> None:
    """The same with the options of :func:`test_parser`."""
    cfg = _prepare(args)
    expected = use_published_test(cfg, args.checkpoint, args.cfg_options or {})
    recipe = _as_asked_for(cfg)
    identity = _identity(cfg, args, args.cfg_options or {})
    if args.tta:
        _augment_test(cfg, args.config)
    if args.show_dir:
        paint_into(cfg, args.show_dir)
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    require_workable(cfg, training=False)
    cfg.load_from, cfg.resume = args.checkpoint, False
    drop_pretrained(cfg)
    _start_on_device(cfg, args.launcher)
    fingerprints = check_data(cfg, ('test',))

    folder = OutputFolder(args.out) if args.out else None
    runner = _runner(cfg, folder, recipe)
    runner.save_recipe(replace=False)  # in the work dir of a training its own stays
    started = time.monotonic()
    metrics = runner.test()
    facts = dict(
        kind='test',
        precision='fp32',
        tta=args.tta,
        checkpoint=Path(args.checkpoint).name,
        test_seconds=round(time.monotonic() - started, 1),
    )
    keep_result(cfg, identity, fingerprints, runner, metrics, folder, facts)
    where = f'  ({folder.summary()})' if folder else ''
    say(f'{headline(cfg, metrics)}{expected}{"  multi-scale" if args.tta else ""}{where}')


def _prepare(args: argparse.Namespace) -> Config:
    cfg = load_config(args.config, args.cfg_options, args.backbone)
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', _name(cfg, args)))
    task_of(cfg)  # refuses what is of no known task
    for folder in _folders(cfg):
        require_folder('--work-dir' if args.work_dir else 'work_dir', folder)
    return cfg


def _folders(cfg: Config) -> list[str]:
    """The work dir, and the folder of the checkpoints if it is another one on this machine."""
    elsewhere = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    if not elsewhere or '://' in str(elsewhere):
        return [cfg.work_dir]
    return [cfg.work_dir, str(Path(elsewhere, Path(cfg.work_dir).absolute().name))]  # as mmengine names it


def _as_asked_for(cfg: Config) -> Config:
    """A copy to be saved: what is computed, before it is adapted to the machine, without where this run writes."""
    recipe = copy.deepcopy(cfg)
    for key in ('work_dir', 'launcher'):
        recipe.pop(key, None)
    if 'resume' in recipe:
        recipe.resume = False
    return recipe


def _name(cfg: Config, args: argparse.Namespace) -> str:
    given = ARM_KEY in (args.cfg_options or {})
    return run_name(args.config, args.backbone, arm_of_config(cfg) if given else None)


def _identity(cfg: Config, args: argparse.Namespace, options: dict) -> dict:
    """The keys of the record that identify this configuration, before it is adapted to the machine."""
    return dict(
        config=f'{_name(cfg, args)}.py',
        config_file=str(args.config),
        backbone=args.backbone,
        arm=arm_of_config(cfg),
        config_hash=config_hash(cfg),
        settings=settings_of(cfg),
        options=plain_data(options),
    )


def _training_options(cfg: Config, args: argparse.Namespace) -> dict:
    """Apply ``--amp`` and ``--auto-scale-lr``. Returns all options as keys of the configuration."""
    options = dict(args.cfg_options or {})
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        options |= {f'optim_wrapper.{key}': cfg.optim_wrapper[key] for key in ('type', 'loss_scale')}
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size')
        options['auto_scale_lr.enable'] = cfg.auto_scale_lr.enable = True
    return options


def _augment_test(cfg: Config, config_file: str) -> None:
    if task_of(cfg) == 'classification':
        raise InputError('--tta: for segmentors only')
    if task_of(cfg) == 'detection':
        raise InputError("--tta: for segmentors only; mmdet's test-time augmentation of Mask R-CNN has no masks")
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise InputError(f'--tta: {config_file} has no tta_model and tta_pipeline')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)


def _resume(cfg: Config, choice: str) -> None:
    """Set ``load_from`` and ``resume`` from ``--resume``. No other weights are loaded then."""
    if choice in ('required', 'auto'):
        found, skipped = find_newest(cfg.work_dir)
        for sentence in skipped:
            say(sentence)
        if found is None and skipped:
            raise InputError(f'--resume: no checkpoint in {cfg.work_dir} is whole; remove them to start a new run')
        if found is None and choice == 'required':
            raise InputError(
                f'--resume: no checkpoint in {cfg.work_dir}; --resume auto starts a new run, --resume PATH names one'
            )
        if found is None:
            say(f'--resume auto: no checkpoint in {cfg.work_dir}, starting a new run')
            return
        choice = str(found)
    _require_local(choice, '--resume')
    cfg.load_from, cfg.resume = choice, True
    drop_pretrained(cfg)
    say(f'resuming from {choice}')


def _start_from(cfg: Config) -> None:
    """Load no published weights where ``load_from`` replaces them."""
    _require_local(cfg.load_from, 'load_from')
    dropped = drop_pretrained(cfg, tuple(cfg.get('load_from_allow', ())))
    if dropped:
        say(f'the weights are those of load_from={cfg.load_from}; not loaded: {", ".join(dict.fromkeys(dropped))}')


def _require_local(checkpoint: str, option: str) -> None:
    """Refuse a path that names no file before anything in the work dir is touched. Addresses are left to the loader."""
    if '://' not in checkpoint and not Path(split_checksum(checkpoint)[0]).expanduser().is_file():
        raise InputError(f'{option} {checkpoint}: no such file')


def _start_on_device(cfg: Config, launcher: str) -> None:
    for notice in adapt_to_device(cfg, launcher):
        say(notice)
    if launcher != 'none' and not is_distributed():
        # The runner does this too, but folders must be prepared earlier and by one process.
        init_dist(launcher, **cfg.env_cfg.dist_cfg)


def _runner(cfg: Config, folder: OutputFolder | None, recipe: Config) -> Runner:
    """Build the runner, and refuse what would fail after the training."""
    try:
        for sentence in folder.attach(cfg.test_evaluator, cfg.get('default_scope')) if folder else ():
            say(sentence)
        runner = Runner.from_cfg(cfg, recipe)
        require_runnable(runner)
        name_images(runner.test_evaluator.metrics, runner.test_dataloader.dataset)
        try_out(runner, training=cfg.train_cfg is not None)
    except InputError:
        if folder:
            folder.discard()
        raise
    return runner
