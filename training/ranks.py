"""What each rank of every kind of worker does around its jobs: join the others, do them one after the other, end in order."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from driftwheel.errors import TrainingError
from driftwheel.processes import tie
from training.group import process_group, sole_worker
from training.job import MODEL, STOPPED, Job
from training.stopping import Stopped, stop_on_signals

Run = Callable[[Job, torch.device, Callable[[], bool]], None]
"""Does a rank's share of a job, on a device, asking now and then whether to save and end."""


def run_jobs(job_paths: list[str], run: Run) -> None:
    """Join the process group and do a rank's share of each job.

    After SIGTERM all ranks save between the same two steps and end with code 143. A rank that cannot, since it waits for
    one that is gone, ends by itself soon after; then only the work since the last checkpoint is lost, and as nothing is
    written in place, nothing is half-written.
    """
    tie(os.getppid())
    jobs = [msgspec.json.decode(Path(path).read_bytes(), type=Job) for path in job_paths]
    torch.set_num_threads(jobs[0].threads)
    first = jobs[0]
    with stop_on_signals(first.grace_s) as request, process_group(first.ranks, first.execution.silence_s) as device:
        for job in jobs:
            with sole_worker(job):
                _work(job, device, request.agreed, run)


def _work(job: Job, device: torch.device, stop: Callable[[], bool], run: Run) -> None:
    """Do a job, or say in one line why not, and end this process."""
    done = torch.tensor((Path(job.folder) / MODEL).is_dir())  # before this process was started again
    dist.broadcast(done, 0)
    if done:
        return
    try:
        run(job, device, stop)
    except Stopped:
        print(f"{job.key}: {STOPPED}", file=sys.stderr)  # noqa: T201 (a worker)
        sys.exit(128 + signal.SIGTERM)
    except TrainingError as error:
        sys.exit(f"{error.message}" + (f" ({error.hint})" if error.hint else ""))
