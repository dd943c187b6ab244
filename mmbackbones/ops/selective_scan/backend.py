"""What every backend of the selective scan takes, gives and says of itself."""

from typing import NamedTuple, Protocol

from torch import Tensor


class ScanArguments(NamedTuple):
    """The inputs of one scan, checked, in the order of the operator's schema. See :func:`selective_scan`.

    Any strides, any mixture of dtypes; no dimension is empty.
    """

    u: Tensor
    """(B, D, L)"""
    delta: Tensor
    """(B, D, L)"""
    A: Tensor
    """(D, N)"""
    B: Tensor
    """(B, G, N, L)"""
    C: Tensor
    """(B, G, N, L)"""
    D: Tensor | None
    """(D,)"""
    z: Tensor | None
    """(B, D, L)"""
    delta_bias: Tensor | None
    """(D,)"""
    delta_softplus: bool
    reverse: bool
    order: Tensor | None
    """(S,) int64, for S slots; only where the backend is ``INDEXED``."""

    @property
    def tensors(
        self,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Those that have a gradient."""
        return self[:8]


class Backend(Protocol):
    """A module (or package) of this folder.

    Everything returned is contiguous and fresh. Where an order is given, out, du, ddelta and dz are (B, D, L) views of
    contiguous (B, L, D).
    """

    DEVICES: tuple[str, ...] | None
    """The device types that it serves; None: all."""
    FLOAT64: bool
    """Whether it takes float64."""
    INDEXED: bool
    """Whether it scans in an order by itself. For the others ``op.py`` gathers the sequences and brings them back."""

    def available(self) -> str | None:
        """None if it can be used, else the reason in one line."""

    def saved_shape(self, batch: int, dim: int, slots: int, state: int) -> tuple:
        """Shape of the float32 tensor of states that the forward leaves for the backward; ``(0,)`` if there is none.

        The arguments may be symbolic.
        """

    def forward(self, scan: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Output, last state and saved states.

        The output is (B, D, L) in the dtype of u. The last state is (B, D, N), float32 (float64 if an input is), that
        of t = L - 1, or of t = 0 under ``reverse``. Without ``save`` the saved states have shape (0,).
        """

    def backward(self, scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None, saved: Tensor) -> tuple:
        """Gradients of the eight tensors in their dtypes; that of an absent tensor is empty."""
