"""The same seed on the same CPU gives the same bits: losses, gradients, weights, for every registered backbone."""

import pytest
import torch
from mmengine.runner import set_random_seed

from mmbackbones.registry import MODELS
from tests.backbones.test_registry import ROWS, image, loss_of
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
    return dict(losses=losses, state_dict=dict(backbone.state_dict()), optimizer=optimizer.state_dict(),
                gradients={name: parameter.grad for name, parameter in backbone.named_parameters()})


@pytest.mark.parametrize('name', ROWS)
def test_same_seed_same_bits(name, deterministic):
    config, _ = ROWS[name]
    first = two_steps(config, seed=7)
    torch.rand(13)  # whatever was drawn before
    assert not same_bits(first, two_steps(config, seed=7))
    assert same_bits(first['losses'], two_steps(config, seed=8)['losses'])
