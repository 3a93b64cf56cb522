"""Start training jobs under torchrun, watch them, and collect what they leave. The one entry point of training: the
command line, the wheel and an automatic retrain all come through here.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.errors import TrainingError
from driftwheel.files import exclusive_lock, write_atomically
from driftwheel.processes import tied
from training.config import TrainConfig, config_fields, default_config
from training.data.dataset import Dataset
from training.execution import Execution
from training.job import JOB, MODEL, PROGRESS, STDERR, STOPPED, EpochEvent, Job, TrainedModel, job_key, read_trained
from training.resources import check_ranks, machine_memory_mb
from training.revision import code_revision
from training.torchrun import JOIN, join_script, torchrun_command, torchrun_environment

_TREES = "training.tree_worker"
_WORKERS = {
    "bayes": "training.factorization.worker",
    "als": "training.factorization.worker",
    "ials": "training.factorization.worker",
    "forest": _TREES,
    "boosting": _TREES,
}
"""What does the jobs of an estimator; those that go down a gradient share one."""
_POLL_S = 0.05
_GRACE_S = 40.0
"""How long torchrun may take to end its workers, which save, before it is killed. It kills them itself after 30 s."""
_LINES = 12
"""How much of the end of the workers' standard error an error message shows."""

OnEpoch = Callable[[EpochEvent], None]


def train(
    dataset: Dataset,
    *,
    jobs_folder: Path,
    ranks: int,
    seed: int,
    timeout_s: float,
    config: TrainConfig | None = None,
    on_epoch: OnEpoch | None = None,
    threads: int | None = None,
    execution: Execution | None = None,
    grace_s: float | None = None,
) -> TrainedModel:
    """Train and evaluate on a dataset, or go on where an interrupted job stopped, or return what a finished one made.

    A job is known by the data's fingerprint, the configuration and the seed. Call it from the main thread: the kernel
    ties the workers to the thread that started them.

    Args:
        ranks: Processes on this machine.
        timeout_s: The job is ended after so many seconds; its checkpoint stays.
        on_epoch: Called once for each epoch, those of an interrupted predecessor included.
        threads: Of all ranks together; as many as the machine has cores unless given.
        execution: How it is spread over processes and machines; on this machine, unsharded, unless given.
        grace_s: How long a rank that is told to stop may take; as ``Job`` has it unless given.

    Raises:
        TrainingError: The job failed or took too long; the message ends with the last lines of its standard error.
        BusyError: Another process runs the same job.
    """
    evaluation = _job(dataset, jobs_folder, ranks, seed, config, threads=threads, execution=execution)
    if grace_s is not None:
        evaluation = replace(evaluation, grace_s=grace_s)
    with _held(jobs_folder, evaluation):
        _run([evaluation], timeout_s, on_epoch)
        return read_trained(_model(evaluation))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training for service makes."""

    evaluated: TrainedModel
    """Stopped early by the valid split: what the number of epochs comes from."""
    measured: TrainedModel
    """The same training once more, for as many epochs as were best, on all rows but the test split: what the metrics and
    the plots are of."""
    shipped: TrainedModel
    """The same on all rows of the full dataset (which may be the same training). Its metrics are those of ``measured``."""


def train_and_refit(
    dataset: Dataset,
    full: Dataset,
    *,
    jobs_folder: Path,
    ranks: int,
    seed: int,
    timeout_s: float,
    config: TrainConfig | None = None,
    on_epoch: OnEpoch | None = None,
    execution: Execution | None = None,
) -> Trained:
    """Train as ``train`` does, then on all but the test split to be measured on it, then on ``full``; all under one
    torchrun, each found again or resumed by itself.

    Args:
        full: What ``data.refit.refit_dataset`` made of ``dataset``.
        timeout_s: For both together.
        on_epoch: Called for the epochs of the evaluation, then for those of the refit, which have no metric.
        execution: As for ``train``.

    Raises:
        TrainingError: As for ``train``.
        BusyError: As for ``train``.
    """
    from training.data.refit import refit_dataset

    # Where the test split is the newest part, leaving out the part before it as well would measure an older model than
    # the one that a champion is: so the rows before the test split are learned whole, and that is measured.
    until_test = refit_dataset(dataset, keep_test=True)
    jobs = [_job(dataset, jobs_folder, ranks, seed, config, execution=execution)]
    for refit in dict.fromkeys((until_test.fingerprint, full.fingerprint)):
        source = full if refit == full.fingerprint else until_test
        evaluation = str(_model(jobs[-1]))
        jobs.append(_job(source, jobs_folder, ranks, seed, config, evaluation=evaluation, execution=execution))
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(_held(jobs_folder, job))
        _run(jobs, timeout_s, on_epoch)
        evaluated, measured, shipped = (read_trained(_model(job)) for job in (jobs[0], jobs[1], jobs[-1]))
        return Trained(evaluated=evaluated, measured=measured, shipped=shipped)


def _job(
    dataset: Dataset,
    jobs_folder: Path,
    ranks: int,
    seed: int,
    config: TrainConfig | None,
    *,
    evaluation: str | None = None,
    threads: int | None = None,
    execution: Execution | None = None,
) -> Job:
    fields = config_fields(config or default_config(dataset.task))
    ranks = 1 if _worker(fields) == _TREES else ranks
    check_ranks(ranks, machine_memory_mb())
    execution = execution or Execution()
    key = job_key(dataset.task, dataset.fingerprint, fields, seed, execution.precision)
    return Job(
        key=key,
        task=dataset.task,
        dataset=str(dataset.folder.absolute()),
        folder=str(jobs_folder.absolute() / key),
        config=fields,
        seed=seed,
        ranks=ranks,
        threads=max(1, (threads or os.cpu_count() or 1) // ranks),
        code_revision=code_revision(),
        execution=execution,
        evaluation=evaluation,
    )


def _worker(fields: dict[str, Any]) -> str:
    """The module that does a job. scikit-learn's trees are grown by one process, all else by torchrun's."""
    return _WORKERS.get(fields.get("estimator", ""), "training.worker")


def _model(job: Job) -> Path:
    return Path(job.folder) / MODEL


def _held(jobs_folder: Path, job: Job) -> AbstractContextManager[None]:
    return exclusive_lock(jobs_folder / f"{job.key}.lock", purpose=f"training job {job.key}")


def _run(jobs: list[Job], timeout_s: float, on_epoch: OnEpoch | None) -> None:
    """Run those jobs that are not done. What they say on standard error goes to the folder of the first."""
    jobs = [job for job in jobs if not _model(job).is_dir()]
    for job in jobs:
        write_atomically(Path(job.folder) / JOB, msgspec.json.encode(job))
        (Path(job.folder) / PROGRESS).unlink(missing_ok=True)  # rank 0 writes it anew from the checkpoint
    if jobs:
        _watch(jobs, timeout_s, on_epoch or (lambda _: None))


def _watch(jobs: list[Job], timeout_s: float, on_epoch: OnEpoch) -> None:
    deadline = time.monotonic() + timeout_s
    tails = [EventTail(Path(job.folder) / PROGRESS) for job in jobs]
    with _torchrun(jobs) as process:
        while (code := process.poll()) is None:
            _report(tails, on_epoch)
            if time.monotonic() > deadline:
                raise TrainingError(f"training took longer than {timeout_s:g} s", hint="run it again: it will go on")
            time.sleep(_POLL_S)
    _report(tails, on_epoch)
    if code != 0 and STOPPED in (Path(jobs[0].folder) / STDERR).read_text(errors="replace"):
        raise TrainingError(f"training was {STOPPED}", hint="run it again: it will go on there")
    if code != 0:
        raise TrainingError(f"training ended with code {code}: {last_words(Path(jobs[0].folder) / STDERR)}")


def _report(tails: "list[EventTail]", on_epoch: OnEpoch) -> None:
    for tail in tails:
        for event in tail.new():
            on_epoch(event)


@contextmanager
def _torchrun(jobs: list[Job]) -> Generator[subprocess.Popen[bytes]]:
    files = [str(Path(job.folder) / JOB) for job in jobs]
    worker = _worker(jobs[0].config)
    command, environment = torchrun_command(jobs[0], files, worker), torchrun_environment(jobs[0])
    if worker == _TREES:
        command = [sys.executable, "-m", worker, *files]
        # scikit-learn's threads wait for each other all the time, and spinning would take the cores from what serves and from
        # the very threads that they wait for: on cores that something else uses as well, it takes ten times as long.
        environment = {"OMP_WAIT_POLICY": "passive", **environment}
    elif jobs[0].execution.nodes > 1:
        write_atomically(Path(jobs[0].folder).parent / JOIN, join_script(jobs[0], files, worker).encode())
    with (Path(jobs[0].folder) / STDERR).open("wb") as log:
        process = subprocess.Popen(tied(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class EventTail:
    """Reads a growing file of epoch events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = 0
        self._offset = 0
        self._epoch = 0

    def new(self) -> list[EpochEvent]:
        """The events of the whole lines that came since the last call. Ranks that were restarted write the file anew; its
        epochs are not told twice.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            if (number := os.fstat(file.fileno()).st_ino) != self._file:
                self._file, self._offset = number, 0
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        events = [msgspec.json.decode(line, type=EpochEvent) for line in whole.split(b"\n")]
        new = [event for event in events if event.epoch > self._epoch]
        self._epoch = max(self._epoch, events[-1].epoch)
        return new


def last_words(path: Path) -> str:
    """The end of what the workers wrote, up to where torchrun begins its own report."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    own = [
        n for n, line in enumerate(lines) if "torch/distributed/elastic" in line or "torch.distributed.elastic" in line
    ]
    return "\n".join(lines[: own[0] if own and own[0] else None][-_LINES:]) or "it said nothing"
