"""Time and memory of a backbone's forward pass as the image grows, its scan backends side by side.

Every backend at every size has a process of its own, so that no figure holds what another one left behind. Processes
of a size take turns, so that all share the conditions; a ratio is only ever one within such a group.
"""

import csv
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from mmbackbones.analysis.scan_benchmark import environment, peak_memory, seconds_of
from mmbackbones.engine.options import load_config
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend
from mmbackbones.ops.selective_scan.dispatch import ENVIRONMENT
from mmbackbones.registry import MODELS

WARM_UP = 64  # px; what is loaded and allocated once is no cost of a size


@dataclass
class Row:
    """One backend at one size, batch 1, float32, CPU.

    Attributes:
        size (int): side of the square image in pixels.
        backend (str): backend of the selective scan.
        tokens (int): positions of the first returned map.
        peak (int | None): most bytes held during the forward pass beyond model and image; None where the system
            does not tell.
        seconds (list[float]): one per round.
        ratio (float | None): median time over that of the first backend at this size.
    """

    size: int
    backend: str
    tokens: int
    peak: int | None
    seconds: list[float] = field(default_factory=list)
    ratio: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def build_backbone(cfg: Config) -> nn.Module:
    """The backbone of a configured model, with random weights."""
    import mmbackbones.backbones  # noqa: F401  (registers them)
    torch.manual_seed(0)
    return MODELS.build({**cfg.model.backbone, 'init_cfg': None}).eval()


def measure(config: str, sizes: Sequence[int], backends: Sequence[str] = (), rounds: int = 3,
            threads: int = 1) -> Iterator[Row]:  # fmt: skip
    """Run the forward pass of a config's backbone on one square image per size.

    Args:
        config: path of a config.
        sizes: sides in pixels.
        backends: of the selective scan, the first being the base of ratios; by default the one chosen for the CPU.
        rounds: timed passes per backend and size; memory is read in an untimed one before.
        threads: CPU threads. With one, time is the thread's own, whatever else runs on the machine.

    Yields:
        Row: all backends of a size, then the next size.

    Raises:
        InputError: no or unusable sizes, backends or rounds.
    """
    if not sizes or min(sizes) < WARM_UP:
        raise InputError(f'--sizes {" ".join(map(str, sizes))}: expected sides of {WARM_UP} px and more')
    if min(rounds, threads) < 1:
        raise InputError(f'--rounds {rounds} --threads {threads}: expected 1 and more')
    load_config(config)
    names = [selective_scan_backend('cpu', name).name for name in backends or ['auto']]
    for size in sizes:
        workers = [_Worker(config, size, name, threads) for name in names]
        try:
            rows = [worker.answer() for worker in workers]
            for _ in range(rounds):
                for worker, row in zip(workers, rows):
                    row.seconds.append(worker.answer())
        finally:
            for worker in workers:
                worker.end()
        for row in rows:
            row.ratio = row.median / rows[0].median
        yield from rows


class _Worker:
    """A process that measures one backend at one size and waits for its turn before every step."""

    def __init__(self, config: str, size: int, backend: str, threads: int):
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, size, backend, threads), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self) -> Row | float:
        """Let it take its next step: the row with its memory first, then a time per call."""
        try:
            self.pipe.send(None)
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise RuntimeError(f'the measuring process ended with status {self.process.exitcode}') from None

    def end(self) -> None:
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, config: str, size: int, backend: str, threads: int) -> None:
    os.environ[ENVIRONMENT] = backend
    torch.set_num_threads(threads)
    backbone = build_backbone(load_config(config))
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        backbone(image[..., :WARM_UP, :WARM_UP])
        tokens = []

        def forward() -> None:
            tokens[:] = [backbone(image)[0][0, 0].numel()]

        try:
            pipe.recv()
            peak = peak_memory(forward, 'cpu')
            pipe.send(Row(size, backend, tokens[0], peak))
            while True:
                pipe.recv()
                pipe.send(seconds_of(forward, 1, 'cpu'))
        except EOFError:  # nothing more to measure
            return


def conditions(config: str, threads: int) -> dict[str, str]:
    """What every line of the CSV says about where it was measured."""
    torch.set_num_threads(threads)
    return {'config': Path(config).stem, 'batch': '1', **environment('cpu', torch.float32)}


def write_csv(rows: Sequence[Row], path: str | Path, about: dict[str, str]) -> None:
    """One line per row, with the conditions on each."""
    fields = ['size', 'tokens', 'backend', 'median_ms', 'min_ms', 'max_ms', 'times_first', 'peak_mb',
              'peak_bytes_per_token']  # fmt: skip
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*fields, *about])
        for row in rows:
            times = [f'{1e3 * x:.4g}' for x in (row.median, min(row.seconds), max(row.seconds))]
            memory = ['', ''] if row.peak is None else [f'{row.peak / 1e6:.1f}', f'{row.peak / row.tokens:.0f}']
            writer.writerow([row.size, row.tokens, row.backend, *times, f'{row.ratio:.4g}', *memory, *about.values()])
