"""How torchrun is asked to run a job, on this machine and on others."""

import os
import shlex
import sys

from training.job import Job

JOIN = "join.sh"
"""In the jobs folder: what other nodes run to take part in the job that was started last."""

_OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Else ranks that are started again may find their dead predecessors' addresses: pytorch/pytorch issue 135712."""


def torchrun_command(job: Job, job_files: list[str], worker: str) -> list[str]:
    """The command line for the node that starts the jobs, all of which run as the first does.

    Args:
        worker: The module that each rank runs.
    """
    run = job.execution
    if run.nodes == 1:
        where = ["--standalone"]
    else:
        where = [*_rendezvous(job), "--rdzv-conf=is_host=1"]
        where += [f"--local-addr={run.address}"] if run.address else []
    return [sys.executable, "-m", "torch.distributed.run", *where, *_ranks(job), "-m", worker, *job_files]


def torchrun_environment(job: Job) -> dict[str, str]:
    """The environment of torchrun and of the ranks."""
    return {**os.environ, **_variables(job)}


def join_script(job: Job, job_files: list[str], worker: str) -> str:
    """A shell script that makes another node take part; what is behind its name goes to torchrun."""
    words = ["python", "-m", "torch.distributed.run", *_rendezvous(job), "--rdzv-conf=is_host=0", *_ranks(job)]
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _variables(job).items())
    return (
        f"#!/bin/sh\n# Another node's part of training job {job.key}: run it where the same home folder is mounted.\n"
        f'{exports}exec {shlex.join(words)} "$@" {shlex.join(["-m", worker, *job_files])}\n'
    )


def _rendezvous(job: Job) -> list[str]:
    run = job.execution
    return [
        f"--nnodes={run.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={run.rendezvous}",
        f"--rdzv-id={job.key}",
    ]


def _ranks(job: Job) -> list[str]:
    return [f"--nproc-per-node={job.ranks}", f"--max-restarts={job.execution.max_restarts}"]


def _variables(job: Job) -> dict[str, str]:
    variables = {"OMP_NUM_THREADS": str(job.threads), _OWN_STORE: "1"}
    if (interface := job.execution.interface) is not None:
        variables |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return variables
