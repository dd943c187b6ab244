"""The training images of a run: drawn in turn, by worker processes, or on the device that trains."""

from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from mmbackbones.analysis.long_range.runs import MOST_STEPS, LongRangeRun
from mmbackbones.datasets.long_range import LongRangeBatch
from mmbackbones.errors import InputError


class Steps(Dataset):
    """The images of each step of a run, by the number of the step. Equal whatever was asked for before.

    Args:
        run: what is trained.
        device: where the images are drawn; each kind of device has random numbers of its own.
    """

    def __init__(self, run: LongRangeRun, device: str = 'cpu'):
        self.run = run
        self.generator = torch.Generator(device)

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> LongRangeBatch:
        # Different for all steps of all seeds, and below the seeds of test images.
        self.generator.manual_seed(self.run.seed * MOST_STEPS + step)
        task, size = self.run.stage(step)
        return task.batch(size, self.generator)


def check_workers(run: LongRangeRun, workers: int) -> None:
    """Refuse worker processes that cannot draw the images of a run.

    Raises:
        InputError: fewer than 0, or more where images are not drawn by step on a CPU.
    """
    if workers < 0:
        raise InputError(f'long-range task: {workers} workers, expected 0 or more')
    if workers and run.draw != 'per-step':
        raise InputError(
            f'long-range task: {workers} workers with images drawn {run.draw}, expected them drawn per-step: only '
            'these are the same for any number of workers'
        )


def training_images(
    run: LongRangeRun, generator: torch.Generator, first: int = 0, workers: int = 0
) -> Iterator[LongRangeBatch]:
    """The batches of the steps from ``first`` on, on the device of the run.

    Args:
        run: what is trained.
        generator: draws the images of ``'in-turn'``, so that its state belongs to the state of the training.
        first: number of the first step.
        workers: processes that draw ``'per-step'`` images ahead of the training.
    """
    check_workers(run, workers)
    steps = range(first, run.steps)
    batches: Iterable[LongRangeBatch]
    if run.draw == 'in-turn':
        stages = map(run.stage, steps)
        batches = (task.batch(size, generator) for task, size in stages)
    elif run.draw == 'on-device':
        images = Steps(run, run.device)
        batches = (images[step] for step in steps)
    else:
        batches = DataLoader(
            Steps(run),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            pin_memory=run.device != 'cpu',
            generator=torch.Generator(),  # else it draws from the global one
        )
    for batch in batches:
        yield LongRangeBatch(*(part.to(run.device, non_blocking=True) for part in batch))
