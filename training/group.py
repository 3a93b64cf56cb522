"""The process group that the ranks of a job form, and the order in which they come."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from driftwheel.files import remove_leftovers, waiting_lock
from training.job import CHECKPOINTS, LOCK, Job


@contextmanager
def process_group(ranks: int, silence_s: float) -> Generator[torch.device]:
    """Join the other ranks, over NCCL where each rank of this machine has a GPU of its own, else over gloo.

    Args:
        ranks: On this machine.
        silence_s: A collective operation fails after so many seconds without a rank that should take part.
    """
    gpus = torch.cuda.device_count()
    on_gpu = gpus >= ranks
    device = torch.device("cuda", dist.get_node_local_rank()) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        # The CPU's algorithms are deterministic as they are, and this takes two seconds to import what it needs.
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # What the ranks agree on (whether to stop, whether a checkpoint is whole) is no business of the GPU's.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=silence_s),
        device_id=device if on_gpu else None,
    )
    if gpus and not on_gpu and dist.get_rank() == 0:
        print(f"{gpus} GPUs for {ranks} ranks: training on the CPU", file=sys.stderr)  # noqa: T201 (a worker)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def sole_worker(job: Job) -> Generator[None]:
    """Wait until a predecessor that was told to end has ended; what it left half-written is dead then.

    Rank 0 holds the lock for all.
    """
    first = dist.get_rank() == 0
    folder = Path(job.folder)
    with waiting_lock(folder / LOCK) if first else nullcontext():
        if first:
            for place in (folder, folder / CHECKPOINTS):
                remove_leftovers(place, older_than_s=0.0, now_s=time.time())
        dist.barrier()
        yield
