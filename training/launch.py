"""Start a training job under torchrun, watch it, and collect what it leaves. The one entry point of training: the
command line, the wheel and an automatic retrain all come through here.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from driftwheel.errors import TrainingError
from driftwheel.files import exclusive_lock, write_atomically
from driftwheel.processes import tied
from training.config import TrainConfig, config_fields, default_config, digest
from training.data.dataset import Dataset
from training.job import JOB, MODEL, PROGRESS, STDERR, EpochEvent, Job, TrainedModel, read_trained
from training.revision import code_revision

_POLL_S = 0.05
_GRACE_S = 10.0
"""How long torchrun may take to end its workers before it is killed."""
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
) -> TrainedModel:
    """Train on a dataset, or go on where an interrupted job stopped, or return what a finished one made.

    A job is known by the data's fingerprint, the configuration and the seed. Call it from the main thread: the kernel
    ties the workers to the thread that started them.

    Args:
        ranks: Processes on this machine.
        timeout_s: The job is ended after so many seconds; its checkpoint stays.
        on_epoch: Called once for each epoch, those of an interrupted predecessor included.

    Raises:
        TrainingError: The job failed or took too long; the message ends with the last lines of its standard error.
        BusyError: Another process runs the same job.
    """
    config = config or default_config(dataset.task)
    fields = config_fields(config)
    key = f"{dataset.task}-{dataset.fingerprint[:16]}-{digest(fields, seed)}"
    folder = jobs_folder.absolute() / key
    with exclusive_lock(jobs_folder / f"{key}.lock", purpose=f"training job {key}"):
        if (folder / MODEL).is_dir():
            return read_trained(folder / MODEL)
        job = Job(
            key=key,
            task=dataset.task,
            dataset=str(dataset.folder.absolute()),
            folder=str(folder),
            config=fields,
            seed=seed,
            ranks=ranks,
            threads=max(1, (os.cpu_count() or 1) // ranks),
            code_revision=code_revision(),
        )
        write_atomically(folder / JOB, msgspec.json.encode(job))
        (folder / PROGRESS).unlink(missing_ok=True)  # rank 0 writes it anew from the checkpoint
        _run(job, folder, timeout_s, on_epoch or (lambda _: None))
        return read_trained(folder / MODEL)


def _run(job: Job, folder: Path, timeout_s: float, on_epoch: OnEpoch) -> None:
    deadline = time.monotonic() + timeout_s
    events = EventTail(folder / PROGRESS)
    with _torchrun(job, folder) as process:
        while (code := process.poll()) is None:
            for event in events.new():
                on_epoch(event)
            if time.monotonic() > deadline:
                raise TrainingError(f"training took longer than {timeout_s:g} s", hint="run it again: it will go on")
            time.sleep(_POLL_S)
    for event in events.new():
        on_epoch(event)
    if code != 0:
        raise TrainingError(f"training ended with code {code}: {last_words(folder / STDERR)}")


@contextmanager
def _torchrun(job: Job, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.ranks}"),
        *("-m", "training.worker", str(folder / JOB)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    with (folder / STDERR).open("wb") as log:
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
        self._offset = 0

    def new(self) -> list[EpochEvent]:
        """The events of the whole lines that came since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [msgspec.json.decode(line, type=EpochEvent) for line in whole.split(b"\n")]


def last_words(path: Path) -> str:
    """The end of what the workers wrote, up to where torchrun begins its own report."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    own = [
        n for n, line in enumerate(lines) if "torch/distributed/elastic" in line or "torch.distributed.elastic" in line
    ]
    return "\n".join(lines[: own[0] if own and own[0] else None][-_LINES:]) or "it said nothing"
