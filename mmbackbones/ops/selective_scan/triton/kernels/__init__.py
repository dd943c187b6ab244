"""Triton kernels of the selective scan; ``host.py`` beside this folder allocates, launches and reduces.

One program owns ``BLOCK`` channels of one group of one image and one segment of the sequence, and walks through time
with the state of these channels, an (N, BLOCK) tile, in registers: one lane per channel, all N states in the lane, so
that the sum over states needs no exchange between lanes; four lanes to four channels in the backward with more than
two states, which sums over channels as well. (An associative scan over time costs six times the instructions.)

Layouts: sequences (batch, tokens, D) with channels contiguous and free strides for batch and time; B and C (batch, G,
tokens, NB) float32 in rows of MAP_ROW elements; A and everything state-like (..., N, D) float32. NB is N rounded up to
a power of two, the rest of B and C being zero.

Names are those of flash-linear-attention: ``i_`` is an index of a program or loop, ``o_`` are offsets, ``p_`` a
pointer, ``b_`` a block in registers, ``m_`` a mask. ``i_s`` counts the ``length`` steps of the scan, ``i_t`` is the
token in memory. They run against each other when REVERSE, and with an order ``i_t`` is looked up: -1 is a padding slot
(PADDED: there are some), which reads zeros and writes nothing, but lets the state decay.

Tensors and strides come in tuples; an absent tensor is None, and what it would do is not compiled. What Triton must not
specialise on stands alone, since it looks into tuples whatever it is told of them.

The step comes as (batch, tokens, D), or with RANK as (batch, G, tokens, RANK), in such rows too, times a weight (RANK,
D); with TAPS the input is the SiLU of a causal convolution along the scan. Directions over one map come one launch
after the other: ``total`` is what the earlier ones left.
"""

from mmbackbones.ops.selective_scan.triton.kernels.backward import (
    backward_for,
    backward_kernel,
    backward_kernel_few_states,
)
from mmbackbones.ops.selective_scan.triton.kernels.forward import forward_kernel
from mmbackbones.ops.selective_scan.triton.kernels.segments import carry_kernel, segment_kernel

__all__ = [
    'backward_for',
    'backward_kernel',
    'backward_kernel_few_states',
    'carry_kernel',
    'forward_kernel',
    'segment_kernel',
]
