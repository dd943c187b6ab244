"""The channel gate of LocalMamba and EfficientVMamba (both call it BiAttn)."""

from torch import Tensor, nn


class ChannelGate(nn.Module):
    """``x * sigmoid(W2 gelu(W1 mean(LN(x))))``, the mean over all positions; not a plain squeeze-and-excitation.

    Source: LocalMamba, https://arxiv.org/abs/2403.09338, section 4.2 (spatial and channel attention; the released
    models keep the channels' part).

    Args:
        dim (int): channels.
        reduction (int): the hidden width is ``dim // reduction``.
    """

    def __init__(self, dim: int, reduction: int = 8):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.global_reduce = nn.Linear(dim, dim // reduction)
        self.act = nn.GELU()
        self.channel_select = nn.Linear(dim // reduction, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ..., C] -> [B, ..., C]"""
        mean = self.norm(x).flatten(1, -2).mean(1, keepdim=True)  # [B, ..., C] -> [B, 1, C]
        gate = self.channel_select(self.act(self.global_reduce(mean))).sigmoid()
        return x * gate.view(x.shape[0], *(1 for _ in x.shape[1:-1]), -1)
