"""Scans with every option, for the phases ``parity`` and ``determinism``: outputs and all gradients by name."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmbackbones.ops.scan_orders import scan_order
from mmbackbones.ops.selective_scan import selective_scan

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')
SEQUENCES = ('u', 'delta', 'B', 'C', 'z')  # what a dtype is for; the others are float32, as a model's parameters


class ScanOptions(NamedTuple):
    """A small scan: batch, channels, map, states and groups, and what a call can have or lack.

    Attributes:
        absent: names of inputs that are None.
        order: a name of :func:`scan_order` over the map, or None.
        channels_last: u, delta and z are views of (B, L, D) memory.
        last_state: the last state has a gradient, too.
    """

    batch: int = 2
    dim: int = 40
    size: tuple[int, int] = (10, 13)
    state: int = 16
    groups: int = 1
    softplus: bool = True
    reverse: bool = False
    absent: tuple[str, ...] = ()
    order: str | None = None
    channels_last: bool = False
    last_state: bool = False

    @property
    def length(self) -> int:
        return self.size[0] * self.size[1]


OPTIONS = {
    'all inputs': ScanOptions(),
    'reverse': ScanOptions(reverse=True),
    'no softplus': ScanOptions(softplus=False),
    'without D, z and bias': ScanOptions(absent=('D', 'z', 'delta_bias')),
    'channels last': ScanOptions(channels_last=True),
    'gradient of the last state': ScanOptions(last_state=True),
    'one state, four groups': ScanOptions(state=1, groups=4),
    'one state, long': ScanOptions(batch=1, dim=33, size=(1, 1027), state=1),
    'three states, one channel': ScanOptions(dim=1, state=3),
    '64 states': ScanOptions(dim=8, state=64),
    'sixteen states, long': ScanOptions(batch=1, dim=32, size=(1, 515)),
    'one token': ScanOptions(size=(1, 1)),
    'windows with padding': ScanOptions(order='w7', reverse=True, groups=2),
    'columns': ScanOptions(order='v', state=1),
    'states as output': ScanOptions(state=1, absent=('C', 'D', 'z')),
}


def inputs_of(options: ScanOptions, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Inputs on the CPU, with Mamba's initial A = -1..-N and steps of 0.001 to 0.1; sequences in ``dtype``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    sequence = options.batch, options.dim, options.length
    maps = options.batch, options.groups, options.state, options.length
    step = torch.exp(torch.linspace(-6.9, -2.3, options.dim))
    inputs = dict(
        u=normal(*sequence),
        delta=0.1 * normal(*sequence),
        A=-torch.arange(1.0, options.state + 1).repeat(options.dim, 1),
        B=normal(*maps),
        C=normal(*maps),
        D=normal(options.dim),
        z=normal(*sequence),
        delta_bias=step.expm1().log(),
    )
    if not options.softplus:  # dt itself, positive
        inputs |= dict(delta=0.05 * inputs['delta'].abs(), delta_bias=step)
    inputs = {name: x.to(dtype) if name in SEQUENCES else x for name, x in inputs.items() if name not in options.absent}
    if options.channels_last:
        for name in ('u', 'delta', 'z'):
            inputs[name] = inputs[name].mT.contiguous().mT
    return inputs


def outputs_of(inputs: dict[str, Tensor], options: ScanOptions, backend: str, device: str) -> dict[str, Tensor]:
    """Output, last state and the gradient of every input, on the device.

    Raises:
        InputError: the backend cannot do this scan.
    """
    inputs = {name: x.detach().to(device).requires_grad_() for name, x in inputs.items()}
    order = None if options.order is None else scan_order(options.order, *options.size).order.to(device)
    out, last_state = selective_scan(
        **dict.fromkeys(NAMES) | inputs,
        delta_softplus=options.softplus,
        reverse=options.reverse,
        order=order,
        return_last_state=True,
        backend=backend,
    )
    outputs = [out, last_state] if options.last_state else [out]
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
    gradients = torch.autograd.grad(outputs, list(inputs.values()), cotangents)
    found = dict(out=out.detach(), last_state=last_state.detach())
    return found | {f'grad_{name}': gradient for name, gradient in zip(inputs, gradients)}
