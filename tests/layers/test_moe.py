"""Experts: what they compute, that routing is deterministic and per token, how loads become equal without a loss."""

import copy

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.backbones import GatedMixerNet, IsotropicMixerNet
from mmbackbones.layers.moe import EXPERTS, ExpertBranch, SwitchExperts

DIM = 6


def experts(dim=DIM):
    torch.manual_seed(0)
    return SwitchExperts(dim)


def tokens(*grid, batch=2, dim=DIM):
    return torch.randn(batch, *grid, dim, generator=torch.Generator().manual_seed(1))


def one_by_one(mixer, x):
    """The definition, token by token: probabilities, the largest with its bias, that expert."""
    outputs, chosen = [], []
    for token in x.flatten(0, 2):
        scores = torch.softmax(mixer.router.weight @ token, dim=0) + mixer.bias
        expert = max(range(EXPERTS), key=lambda i, s=scores: s[i].item())
        outputs.append(mixer.w2[expert] @ F.gelu(mixer.w1[expert] @ token))
        chosen.append(expert)
    return torch.stack(outputs).view(x.shape), chosen


@pytest.mark.parametrize('grid', [(1, 1), (3, 7), (8, 9)], ids=str)
def test_each_token_has_the_expert_that_it_chose(grid):
    mixer, x = experts().double(), tokens(*grid).double()
    mixer.bias.copy_(torch.linspace(-0.1, 0.1, EXPERTS))
    expected, chosen = one_by_one(mixer, x)
    y, one = mixer(x)
    torch.testing.assert_close(y, expected)
    assert one.shape == (*x.shape[:-1], 1) and (one == 1).all()
    assert mixer.route(x.flatten(0, 2))[0].tolist() == chosen
    if grid != (1, 1):
        assert 3 < len(set(chosen)) <= EXPERTS


def test_every_gradient_is_that_of_the_definition():
    """The router's is that of the chosen expert's log probability times the product of output and its gradient."""
    branch, x = ExpertBranch(DIM).double(), tokens(3, 7).double()
    mixer = branch.mixer
    weight = torch.randn(x.shape, dtype=torch.double)
    names, parameters = zip(*branch.named_parameters())
    found = torch.autograd.grad((branch(x) * weight).sum(), parameters)
    normed = F.layer_norm(x, (DIM,))
    y, chosen = one_by_one(mixer, normed)
    y = F.layer_norm(y, (DIM,))
    worth = (y * weight).sum(-1).detach().flatten()
    log_probability = (normed.flatten(0, 2) @ mixer.router.weight.T).log_softmax(-1)[range(len(chosen)), chosen]
    expected = torch.autograd.grad((y * weight).sum() + (worth * log_probability).sum(), parameters)
    for name, one, other in zip(names, found, expected):
        torch.testing.assert_close(one, other, msg=lambda m, n=name: f'{n}: {m}')
        assert one.abs().max() > 0, name


def test_equal_scores_choose_the_first_expert():
    mixer = experts()
    mixer.router.weight.data.zero_()
    assert mixer.route(torch.randn(5, DIM))[0].tolist() == [0] * 5
    mixer.bias[:2] = -0.5
    assert mixer.route(torch.randn(5, DIM))[0].tolist() == [2] * 5


def test_a_token_alone_has_the_output_that_it_has_among_others():
    """No capacity: neither the other images nor the other tokens decide."""
    branch, x = ExpertBranch(DIM).double().train(), tokens(5, 4).double()
    alone = torch.cat([branch(token[None, None, None]) for token in x.flatten(0, 2)])
    torch.testing.assert_close(branch(x), alone.view(x.shape))
    crowd = x[:1, :1, :1].expand(3, 9, 9, DIM)  # all choose one expert, and all get it
    torch.testing.assert_close(branch(crowd), alone[:1].expand(3, 9, 9, DIM))


def test_runs_repeat_to_the_last_bit():
    branch, x = ExpertBranch(24), tokens(9, 13, dim=24)
    results = []
    for _ in range(2):
        branch.zero_grad()
        y = branch(x)
        y.square().sum().backward()
        results.append([y, *(parameter.grad.clone() for parameter in branch.parameters())])
        branch.mixer.bias.zero_()
    assert all(torch.equal(one, other) for one, other in zip(*results))


def crowded(mixer):
    """Tokens of which most choose one expert, and how many choose each."""
    x = tokens(16, 16) + 3 * F.normalize(mixer.router.weight[5].detach(), dim=0)
    return x, loads(mixer, x)


def loads(mixer, x):
    return torch.bincount(mixer.route(x.flatten(0, 2))[0], minlength=EXPERTS)


@pytest.mark.parametrize('balanced', [True, False], ids=['with the bias', 'without'])
def test_loads_become_equal(balanced):
    """As the paper's algorithm does it, by the sign alone. Without it they stay as the router made them."""
    mixer = experts()
    x, before = crowded(mixer)
    assert before.max() > 5 * before.float().mean() and (before == 0).any()
    mixer.balance_rate = 0.01 if balanced else 0.0
    for _ in range(150 if balanced else 3):
        mixer(x)[1].sum().backward()
    after = loads(mixer, x)
    if balanced:
        assert after.max() < 1.5 * after.float().mean() and after.min() > 0.5 * after.float().mean()
    else:
        assert torch.equal(after, before)


def test_the_bias_moves_by_the_sign_once_per_backward_pass():
    mixer = experts()
    x, before = crowded(mixer)
    first, second = mixer(x)[1].sum(), mixer(x[:1])[1].sum()
    assert (mixer.bias == 0).all()  # not yet
    first.backward()
    expected = mixer.balance_rate * (before.float().mean() - before).sign()
    torch.testing.assert_close(mixer.bias, expected)
    second.backward()
    assert not torch.equal(mixer.bias, expected)
    assert 'bias' in mixer.state_dict()  # a resumed run goes on with it


def test_loads_of_all_processes_are_added(monkeypatch):
    """So that a bias is the same in each, and what rank 0 saves is everyone's."""
    elsewhere = torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 0])
    monkeypatch.setattr('mmbackbones.layers.moe.all_reduce', lambda loads: loads.add_(elsewhere))
    mixer = experts()
    mixer.balance(torch.tensor([0, 9, 2, 2, 2, 2, 2, 2]))  # 9 9 2 2 2 2 2 2, a mean of 3.75
    torch.testing.assert_close(mixer.bias, 1e-3 * torch.tensor([-1.0, -1, 1, 1, 1, 1, 1, 1]))


def test_what_is_frozen_or_tested_keeps_its_bias():
    mixer = experts()
    x = crowded(mixer)[0].requires_grad_()
    with torch.no_grad():
        mixer(x)
    mixer.eval()(x)[1].sum().backward()
    assert (mixer.bias == 0).all()
    mixer.train().router.requires_grad_(False)
    y, one = mixer(x.detach())
    (y.sum() + one.sum()).backward()
    assert (mixer.bias == 0).all()


@pytest.mark.parametrize('network', ['gated', 'isotropic'])
def test_activation_checkpointing_changes_nothing(network):
    """The second computation of a block chooses the same experts, and the bias moves once."""
    torch.manual_seed(0)
    if network == 'gated':
        arch = dict(depths=(1, 1, 2, 1), dims=(8, 8, 8, 8))
        model = GatedMixerNet(arch=arch, mixers=('none', 'none', ('bissm', 'moe'), 'moe'))
        for stage in model.stages[2:]:
            stage.blocks[-1].conv.gate.data.fill_(0.5)
    else:
        model = IsotropicMixerNet(arch=dict(embed_dims=16, depth=4), mixers=('bissm', 'moe'), out_indices=(3,))
    saving = copy.deepcopy(model)
    saving.with_cp = True
    image = torch.randn(2, 3, 64, 96)
    for _ in range(2):
        for net in (model.train(), saving.train()):
            sum(out.square().sum() for out in net(image)).backward()
    for (name, one), other in zip(model.named_parameters(), saving.parameters()):
        assert torch.equal(one.grad, other.grad), name
    biases = {name: buffer for name, buffer in model.named_buffers() if name.endswith('.bias')}
    assert len(biases) == 2
    for name, bias in biases.items():
        assert 0 < bias.abs().max() <= 2.01 * 1e-3 and torch.equal(bias, saving.get_buffer(name)), name


def test_balance_starts_while_the_gates_are_closed():
    """The first pass has a gradient of zero behind every gate, and experts get ready all the same."""
    model = GatedMixerNet(arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), mixers=('none', 'none', 'none', 'moe'))
    model(torch.randn(1, 3, 64, 64))[-1].square().sum().backward()
    assert model.stages[3].blocks[0].conv.branch.mixer.bias.abs().max() > 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_half_precision_routes_in_float32(dtype):
    branch, x = ExpertBranch(24), 1e3 * tokens(8, 9, dim=24)
    x = x.to(dtype).requires_grad_()
    with torch.autocast('cpu', dtype=dtype):
        y = branch(x)
    assert y.dtype == torch.float32 and y.isfinite().all()
    torch.testing.assert_close(y, branch(x.float()), atol=0.05, rtol=0.05)
    y.sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in branch.parameters())


def test_a_hopeless_expert_that_the_bias_chooses_stays_finite():
    """Its probability is zero in float32, its logarithm is not."""
    mixer = experts()
    mixer.router.weight.data.zero_()
    mixer.router.weight.data[0] = 100.0
    mixer.bias[3] = 2.0
    one = mixer(torch.full((1, 2, 2, DIM), 10.0))[1]
    one.sum().backward()
    assert (one == 1).all() and mixer.router.weight.grad.isfinite().all()


def test_exported_graph_chooses_by_the_values():
    branch = ExpertBranch(DIM).eval()
    exported = torch.export.export(branch, (tokens(3, 4),)).module()
    for x in (tokens(3, 4), tokens(3, 4).flip(0), -tokens(3, 4)):
        torch.testing.assert_close(exported(x), branch(x))
