"""Test-time training: the step written out is the gradient step of the definition, and it is learnt through."""

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.analysis.complexity.count import count_module
from mmbackbones.layers.ttt import SCALE, learn_depthwise, learn_gated

DOUBLE = dict(dtype=torch.float64)


def clip(gradient, dim):
    return gradient / (1 + gradient.square().sum(dim, keepdim=True).sqrt())


def gated_tensors(batch=2, heads=2, tokens=7, dim=4, **options):
    torch.manual_seed(0)
    q, k, v = (torch.randn(batch, heads, tokens, dim, **options) for _ in range(3))
    return q, k, v, torch.randn(1, heads, dim, dim, **options), torch.randn(1, heads, dim, dim, **options)


def depthwise_tensors(batch=2, dim=3, height=4, width=5, **options):
    torch.manual_seed(0)
    q, k, v = (torch.randn(batch, dim, height, width, **options) for _ in range(3))
    return q, k, v, torch.randn(dim, 1, 3, 3, **options)


def gated(x, w1, w2):
    return (x @ w1) * F.silu(x @ w2)


def test_gated_step_is_the_gradient_of_the_loss():
    """By autograd, one image and one head at a time."""
    q, k, v, w1, w2 = gated_tensors(**DOUBLE)
    y = learn_gated(q, k, v, w1, w2)
    for b in range(2):
        for h in range(2):
            start = [w[0, h].clone().requires_grad_() for w in (w1, w2)]
            loss = -SCALE * (gated(k[b, h], *start) * v[b, h]).sum(-1).mean()
            steps = [clip(gradient, 0) for gradient in torch.autograd.grad(loss, start)]
            learned = [w.detach() - step for w, step in zip(start, steps)]
            torch.testing.assert_close(y[b, h], gated(q[b, h], *learned))


def test_depthwise_step_is_the_gradient_of_the_loss():
    """By autograd, one image at a time."""
    q, k, v, w = depthwise_tensors(**DOUBLE)
    y = learn_depthwise(q, k, v, w)
    for b in range(2):
        start = w.clone().requires_grad_()
        loss = -SCALE * (F.conv2d(k[b], start, padding=1, groups=3) * v[b]).sum(0).mean()
        learned = w - clip(torch.autograd.grad(loss, start)[0], (-2, -1))
        torch.testing.assert_close(y[b], F.conv2d(q[b], learned, padding=1, groups=3))


@pytest.mark.parametrize(
    ('learn', 'tensors'),
    [
        (learn_gated, gated_tensors(1, 2, 5, 3, **DOUBLE)),
        (learn_depthwise, depthwise_tensors(2, 2, 3, 4, **DOUBLE)),
    ],
    ids=['gated', 'depthwise'],
)
def test_training_runs_through_the_step(learn, tensors):
    """The outer gradient holds that of the inner one; so does a penalty on the outer gradient."""
    inputs = [x.requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(learn, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(learn, inputs, fast_mode=True)
    with torch.no_grad():
        without = learn(*inputs)
    assert torch.equal(without, learn(*inputs))


@pytest.mark.parametrize(
    ('learn', 'tensors'),
    [(learn_gated, gated_tensors), (learn_depthwise, depthwise_tensors)],
    ids=['gated', 'depthwise'],
)
def test_half_precision_is_summed_in_float32(learn, tensors):
    """The only errors are those of rounding the arguments, also where bfloat16 sums would lose most tokens."""
    size = dict(tokens=2**14) if learn is learn_gated else dict(height=128, width=128)
    q, k, v, *weights = tensors(1, **size)
    rounded = [x.bfloat16() for x in (q, k, v)]
    with torch.autocast('cpu', torch.bfloat16):
        y = learn(*rounded, *weights)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, learn(*(x.float() for x in rounded), *weights))


def test_an_exported_step_is_the_same():
    """Formats without an operator for the gradient of a convolution get sums."""
    tensors = depthwise_tensors()
    expected = learn_depthwise(*tensors)
    program = torch.export.export(Layer(learn_depthwise), tensors)
    assert not [node for node in program.graph.nodes if 'convolution_backward' in str(node.target)]
    torch.testing.assert_close(program.module()(*tensors), expected)


def test_large_values_do_not_explode():
    """A step is shorter than 1 per column, or per kernel, however large keys and values are."""
    q, k, v, w1, w2 = gated_tensors()
    large = learn_gated(q, 1e4 * k, 1e4 * v, w1, w2)
    bound = (q.norm(dim=-1, keepdim=True) * (w1.norm(dim=-2) + 1)[:, :, None]) * (
        q.norm(dim=-1, keepdim=True) * (w2.norm(dim=-2) + 1)[:, :, None]
    )
    assert (large.abs() <= bound).all()
    q, k, v, w = depthwise_tensors()
    moved = learn_depthwise(q, 1e4 * k, 1e4 * v, w) - F.conv2d(q, w, padding=1, groups=3)
    assert (moved.abs() <= F.conv2d(q.square(), torch.ones_like(w), padding=1, groups=3).sqrt() + 1e-4).all()


class Layer(torch.nn.Module):
    def __init__(self, learn):
        super().__init__()
        self.learn = learn

    def forward(self, *inputs):
        return self.learn(*inputs)


def test_macs_by_hand():
    """Keys, gradients and queries: two d x d matrices per token and head; nine taps twice per token and channel."""
    macs = count_module(Layer(learn_gated), *gated_tensors(1, 3, 35, 8)).macs['Global']
    assert sum(macs.values()) == 3 * 2 * 35 * 3 * 8**2
    macs = count_module(Layer(learn_depthwise), *depthwise_tensors(1, 6, 5, 7)).macs['Global']
    assert sum(macs.values()) == 2 * 9 * 35 * 6
