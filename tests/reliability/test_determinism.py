"""The same seed on the same CPU gives the same bits: losses, gradients, weights, for every registered backbone."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.runner import set_random_seed

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.registry import MODELS
from tests.backbones.test_registry import ROWS, image, loss_of
from tests.conftest import ROOT
from tests.miniatures import DETECTOR, SEGMENTOR
from tests.reliability.harness import same_bits


@pytest.fixture
def deterministic():
    """torch's own switch, which refuses every operator that cannot promise its bits."""
    yield set_random_seed(0, deterministic=True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def two_steps(config: dict, seed: int) -> dict:
    """Loss, gradients, weights and statistics after two steps from new weights, drop path active."""
    set_random_seed(seed)
    backbone = MODELS.build({**config, 'type': f'mmbackbones.{config["type"]}', 'drop_path_rate': 0.3})
    backbone.init_weights()
    backbone.train()
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = loss_of(backbone(image(64, 64)))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return dict(
        losses=losses,
        state_dict=dict(backbone.state_dict()),
        optimizer=optimizer.state_dict(),
        gradients={name: parameter.grad for name, parameter in backbone.named_parameters()},
    )


@pytest.mark.promise('same-bits')
@pytest.mark.parametrize('name', ROWS)
def test_same_seed_same_bits(name, deterministic):
    config, _ = ROWS[name]
    first = two_steps(config, seed=7)
    torch.rand(13)  # whatever was drawn before
    assert not same_bits(first, two_steps(config, seed=7))
    assert same_bits(first['losses'], two_steps(config, seed=8)['losses'])


@pytest.mark.slow
@pytest.mark.promise('same-bits-training')
@pytest.mark.parametrize(
    'config',
    [DETECTOR, SEGMENTOR],
)
def test_whole_trainings_under_the_switch(config, tmp_path):
    """Two processes one after the other, with ``randomness.deterministic=True``."""
    shapes = write_shapes(tmp_path / 'shapes', train=6, val=1)
    folder = shapes / ('coco' if 'coco' in config else 'ade20k')
    options = [f'{split}_dataloader.dataset.data_root={folder}/' for split in ('train', 'test')]
    if 'coco' in config:
        options.append(f'test_evaluator.ann_file={folder}/annotations/instances_val2017.json')
    for name in 'ab':
        subprocess.run(
            [
                sys.executable,
                'tools/train.py',
                config,
                '--backbone',
                'vmamba_mini',
                '--work-dir',
                tmp_path / name,
                '--cfg-options',
                *options,
                'randomness.deterministic=True',
                'train_dataloader.batch_size=2',
                'model.backbone.drop_path_rate=0.3',
                'train_cfg.max_iters=2',
                'default_hooks.checkpoint.interval=2',
            ],
            cwd=ROOT,
            check=True,
            timeout=900,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        )
    one, other = (torch.load(tmp_path / name / 'iter_2.pth', weights_only=True) for name in 'ab')
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'progress'):
        assert not same_bits(one[key], other[key], key)
