"""Several workers of one study on this host: a process each, watched by the one that started them."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

import msgspec

from driftwheel.errors import TrainingError
from driftwheel.processes import tied
from driftwheel.wheel.progress import Reporter, Task
from driftwheel.wheel.search import Search, described

if TYPE_CHECKING:
    from training.tuning.study import Progress

_GRACE_S = 45.0
"""How long a worker that is told to end may take to queue its trial again: it waits for its ranks first, for up to 40 s."""

_LINES = 8
"""How much of the end of a worker's standard error an error message shows."""


@dataclass(frozen=True, slots=True)
class _Worker:
    number: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def end(self) -> str | None:
        """How it ended, once it has; None if well."""
        code = self.process.wait()
        if code == 0:
            return None
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LINES:]) or f"ended with code {code}"


_News = SimpleQueue[tuple[_Worker, "Progress | None"]]


def run_workers(search: Search, task: Task, reporter: Reporter) -> None:
    """Run as many workers as the settings say, until the study has its trials. One that is lost leaves the others at work,
    which run its trial again.

    Interrupted, all of them end, and their trials are queued again.

    Raises:
        TrainingError: All were lost; the message is the last one's.
    """
    count, news, workers = search.settings.tuning.workers, _News(), list[_Worker]()
    try:
        for number in range(1, count + 1):
            workers.append(_start(search, number))
            Thread(target=_listen, args=(workers[-1], news), daemon=True).start()
        _watch(count, search.settings.tuning.trials, news, task, reporter)
    finally:
        _end(workers)


def _start(search: Search, number: int) -> _Worker:
    settings = search.settings
    log = settings.runtime / "tuning" / search.study_name / f"worker-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    own = [search.model, str(search.dataset.folder.absolute()), search.estimator]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            tied([sys.executable, "-m", "driftwheel.wheel.tuning_worker", *own]),
            env=settings.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which then tells each worker once
        )
    return _Worker(number, process, log)


def _end(workers: list[_Worker]) -> None:
    """End those that still work, all at once."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGINT)
    for worker in workers:
        try:
            worker.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _listen(worker: _Worker, news: _News) -> None:
    """Pass on what a worker says, and then that it says no more."""
    from training.tuning.study import Progress

    assert worker.process.stdout is not None  # noqa: S101 (it was started with a pipe)
    try:
        with worker.process.stdout as lines:
            for line in lines:
                news.put((worker, msgspec.json.decode(line, type=Progress)))
    finally:
        news.put((worker, None))


def _watch(count: int, trials: int, news: _News, task: Task, reporter: Reporter) -> None:
    at: dict[int, str] = {}
    lost: list[str] = []
    done, working = 0, count
    while working:
        worker, progress = news.get()
        if progress is not None:
            done = max(done, progress.done)
            at[worker.number] = described(progress)
        else:
            working -= 1
            at.pop(worker.number, None)
            if (how := worker.end()) is not None:
                lost.append(how)
                reporter.note(f"worker {worker.number} is lost, {working} of {count} go on: {how}")
        task.update(done, trials, "; ".join(f"{number}: {words}" for number, words in sorted(at.items())))
    if len(lost) == count:
        raise TrainingError(f"all {count} workers were lost, the last one: {lost[-1]}")
