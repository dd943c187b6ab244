"""Mixture of experts: a router sends each token to one of several small feed-forward networks.

Sources: "Switch Transformers", https://arxiv.org/abs/2101.03961, section 2 (one expert per token, router in float32);
"MoE-Mamba", https://arxiv.org/abs/2401.04081 (such layers take turns with Mamba's); "Auxiliary-Loss-Free Load Balancing
Strategy for Mixture-of-Experts", https://arxiv.org/abs/2408.15664, algorithm 1. Written from the papers.

Three things differ from Switch, each for a reason:

- No capacity and no noise. A capacity lets tokens of other images decide which tokens an expert drops. Here an expert
  takes all tokens that choose it, so that routing is deterministic and a token's output depends on that token alone.
- No auxiliary loss. A backbone returns maps and no loss, and a gradient added behind the loss would miss the factor of
  mixed precision. A bias per expert balances instead: it joins the choice, never the output, and falls after each
  backward pass where an expert had more tokens than the mean, else it rises. Frozen and tested networks keep it.
- The router's probability does not scale the output, whose norm would undo the scale and the router's gradient with it.
  The output is multiplied by one, with the gradient of the chosen expert's log probability.
"""

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from mmbackbones.layers.ss2d import in_float32

EXPERTS = 8
BALANCE_RATE = 1e-3  # of the bias per backward pass, as in the paper on balancing


class ExpertBranch(nn.Module):
    """``LN(expert(LN(x)))`` with the expert that each token chooses; norms without weights.

    Args:
        dim (int): channels C.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.mixer = SwitchExperts(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] of any floating dtype -> map of the same shape in float32 (float64 for float64)."""
        y, one = self.mixer(F.layer_norm(in_float32(x), x.shape[-1:]))
        return F.layer_norm(in_float32(y), y.shape[-1:]) * one


class SwitchExperts(nn.Module):
    """``EXPERTS`` networks of one hidden layer, and the router that chooses one for each token.

    An expert is half as wide as a token. All together are as wide as a usual feed-forward network, four times C.

    Args:
        dim (int): channels C.

    Attributes:
        bias (Tensor): float32 [EXPERTS], added to the probabilities when an expert is chosen. A buffer, which
            checkpoints hold.
        balance_rate (float): change of the bias per backward pass.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.hidden = max(dim // 2, 1)
        self.balance_rate = BALANCE_RATE
        self.router = nn.Linear(dim, EXPERTS, bias=False)
        self.w1 = nn.Parameter(torch.empty(EXPERTS, self.hidden, dim).uniform_(-1, 1) / dim**0.5)
        self.w2 = nn.Parameter(torch.empty(EXPERTS, dim, self.hidden).uniform_(-1, 1) / self.hidden**0.5)
        self.bias: Tensor
        self.register_buffer('bias', torch.zeros(EXPERTS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run each token through its expert.

        Args:
            x (Tensor): map [B, H, W, C].

        Returns:
            tuple[Tensor, Tensor]: outputs [B, H, W, C], and ones [B, H, W, 1] in float32 (float64 for float64) with
            the gradient of the chosen experts' log probabilities.
        """
        tokens = x.flatten(0, 2)  # [B, H, W, C] -> [B*H*W, C]
        chosen, one = self.route(tokens)
        y = self.run_densely(tokens, chosen) if torch.compiler.is_exporting() else self.run_sorted(tokens, chosen)
        return y.view(x.shape), one.view(*x.shape[:-1], 1)

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts, the first among equals, in float32 whatever autocast says.

        Args:
            tokens (Tensor): [L, C].

        Returns:
            tuple[Tensor, Tensor]: indices [L] in int64, and ones [L], see :meth:`forward`.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(in_float32(tokens), in_float32(self.router.weight))
            chosen = (logits.detach().softmax(-1) + self.bias).argmax(-1)
            log_probability = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
            if self.training and logits.requires_grad:
                # At the logits' gradient, not here: activation checkpointing runs this twice and must choose alike.
                loads = F.one_hot(chosen, EXPERTS).sum(0)
                logits.register_hook(lambda _: self.balance(loads))
            return chosen, 1 + log_probability - log_probability.detach()

    @torch.no_grad()
    def balance(self, loads: Tensor) -> None:
        """Move the bias towards equal loads.

        Args:
            loads (Tensor): [EXPERTS], tokens that chose each expert; those of all processes are added.
        """
        loads = loads.float()
        all_reduce(loads)
        self.bias += self.balance_rate * (loads.mean() - loads).sign()

    def run_sorted(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Each expert on the tokens that chose it: [L, C] and [L] -> [L, C]."""
        order = chosen.argsort(stable=True)
        parts = tokens[order].split(self.count(chosen))
        y = torch.cat([self.expert(*part) for part in zip(parts, self.w1.unbind(), self.w2.unbind())])
        return y[order.argsort()]

    def run_densely(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """The same with every expert on all tokens: exported graphs have no sizes that depend on values."""
        outputs = [self.expert(tokens, w1, w2) for w1, w2 in zip(self.w1.unbind(), self.w2.unbind())]
        picked = F.one_hot(chosen, EXPERTS).to(outputs[0].dtype)
        return (torch.stack(outputs, dim=-1) * picked[:, None]).sum(-1)

    @staticmethod
    def expert(tokens: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(tokens, w1)), w2)

    @staticmethod
    def count(chosen: Tensor) -> list[int]:
        """Tokens of each expert. Where tensors have no values, equal parts: the cost is the same for any."""
        if isinstance(chosen, FakeTensor):
            return [len(part) for part in torch.arange(len(chosen)).tensor_split(EXPERTS)]
        return torch.bincount(chosen, minlength=EXPERTS).tolist()


def experts_macs(dim: int, tokens: int) -> int:
    """Multiply-accumulates of :class:`SwitchExperts`: the router and one expert per token."""
    return tokens * dim * (EXPERTS + 2 * max(dim // 2, 1))
