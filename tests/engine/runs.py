"""A small network, and a runner that trains and tests it in a moment."""

import itertools
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from mmbackbones.engine.runner import Runner

EXPERIMENTS = itertools.count()


class Net(BaseModel):
    def __init__(self, classes=2):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, classes)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.body(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))


def make(
    work_dir: Path,
    model=None,
    iters=4,
    dataset=None,
    hooks=None,
    epochs=None,
    val=False,
    collate='default_collate',
    **kwargs,
) -> Runner:
    """A runner over eight samples in batches of two, by iterations or by epochs."""
    loader = dict(
        dataset=dataset or [dict(inputs=torch.full((2,), float(i))) for i in range(8)],
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type=collate),
    )
    by_epoch = epochs is not None
    length = dict(max_epochs=epochs) if by_epoch else dict(max_iters=iters)
    if val:
        kwargs |= dict(
            val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(),
            val_evaluator=[Mean()],
        )
        length |= dict(val_interval=1 if by_epoch else 2)
    return Runner(
        model=model or Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(**loader, sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')),
        test_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=by_epoch, **length),
        test_cfg=dict(),
        test_evaluator=[Mean()],
        optim_wrapper=kwargs.pop('optim_wrapper', dict(optimizer=dict(type='AdamW', lr=0.1))),
        param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=10)],
        default_hooks=hooks or dict(checkpoint=dict(type='CheckpointHook', interval=4, by_epoch=False)),
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}_{next(EXPERIMENTS)}',  # mmengine keeps a logger for each name
        **kwargs,
    )
