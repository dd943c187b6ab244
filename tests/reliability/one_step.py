"""One step of SGD on the same eight images, shared between processes and accumulated over forward passes.

python -m torch.distributed.run --nproc_per_node N tests/reliability/one_step.py FILE ACCUMULATED
"""

import os
import sys

import torch
import torch.distributed
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from mmbackbones.registry import MODELS

IMAGES = 8


def one_step(rank: int, processes: int, accumulated: int, wrap=lambda model: model) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = MODELS.build(dict(type='mmbackbones.MambaOut', arch=dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1))))
    wrapped = wrap(model)
    images = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mine = images[rank::processes]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=accumulated)
    wrapper.initialize_count_status(wrapped, 0, accumulated)
    for part in mine.chunk(accumulated):
        with wrapper.optim_context(wrapped):
            loss = sum(out.square().mean() for out in wrapped(part))
        wrapper.update_params(loss)
    return model.state_dict()


def main() -> None:
    file, accumulated = sys.argv[1], int(sys.argv[2])
    torch.distributed.init_process_group('gloo')
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    weights = one_step(rank, processes, accumulated, lambda model: MMDistributedDataParallel(model, device_ids=None))
    if rank == 0:
        torch.save(weights, file)
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
