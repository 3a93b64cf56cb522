"""Batching without idle wait: what arrives together runs together, and what arrives during a run forms the next one."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from copy import copy
from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec import Struct

from driftwheel.errors import DeadlineExceededError, ModelFaultError, OverloadedError, RequestError, UnavailableError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run takes, as measured at warm-up: a fixed part and a part for each row, in microseconds."""

    fixed_us: float
    row_us: float

    def expected_us(self, rows: int) -> float:
        return self.fixed_us + self.row_us * rows

    def rows_within(self, budget_us: float) -> int:
        """The most rows of a run that is expected to take no longer."""
        if self.row_us <= 0:
            return 2**31 if self.fixed_us <= budget_us else 0
        return int(max(0.0, budget_us - self.fixed_us) / self.row_us)


class Ran(Struct, Generic[Result], eq=False):
    """A job's result, and where its time went."""

    result: Result
    queued_s: float
    """From its submission to the start of the run."""
    run_s: float
    """Of the whole run that it was part of."""


class _Waiting(Struct, Generic[Job, Result], eq=False):
    job: Job
    rows: int
    deadline: float | None
    submitted: float
    answer: "asyncio.Future[Ran[Result]]"
    alone: bool = False
    """Whether it was in a run that failed, and must not spoil another one."""


class Batcher(Generic[Job, Result]):
    """Runs jobs of one kind for many callers on one event loop.

    What is submitted in one turn of the loop is run together in the next: that is no wait, the loop has to finish its
    turn anyway, and it is what makes many small requests cheap. Short runs stay on the loop (a thread's hand-over costs
    more than they do); long ones go to ``executor``, ``max_runs`` at a time.

    Args:
        run: Answers jobs, in their order; a job's result may be an exception, for it alone. What it raises is the fault
            of all, and then each is run again by itself.
        cost: Decides which runs are short.
        inline_us: The longest run, in microseconds, that may hold up the loop.
        max_batch_rows: The most rows of one run.
        max_queued_rows: The most rows that wait.
        max_runs: The most runs under way; what arrives meanwhile forms the next one. More than one is for runs that only wait.
        max_delay_s: How long a run that is not full may wait for more; 0 is right unless the model is slow and gains
            much from large batches.
        on_run: Called with the rows and the seconds of each run.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | RequestError]],
        *,
        cost: RunCost,
        inline_us: float,
        max_batch_rows: int,
        max_queued_rows: int,
        executor: Executor,
        on_run: Callable[[int, float], None],
        max_runs: int = 1,
        max_delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._cost = cost
        self._inline_rows = min(max_batch_rows, cost.rows_within(inline_us))
        self.max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._max_runs = max_runs
        self._max_delay_s = max_delay_s
        self._executor = executor
        self._on_run = on_run
        self._clock = clock
        self._waiting: deque[_Waiting[Job, Result]] = deque()
        self._turn: asyncio.Handle | None = None
        self._running = 0
        self.queued_rows = 0

    @property
    def busy(self) -> bool:
        """Whether what is submitted now has to wait for longer than a turn of the loop."""
        return self._running > 0 or self._max_delay_s > 0 or self._inline_rows == 0

    @property
    def fullness(self) -> float:
        """The share of the queue's bound that waits."""
        return self.queued_rows / self._max_queued_rows

    @property
    def run(self) -> Callable[[Sequence[Job]], Sequence[Result | RequestError]]:
        """What answers jobs."""
        return self._run

    def submit(self, job: Job, rows: int, deadline: float | None) -> "asyncio.Future[Ran[Result]]":
        """Queue one job; cancel what is returned, and it is not run.

        Args:
            deadline: When the caller stops waiting, by ``clock``; None: never. A job that has not begun by then fails with
                DeadlineExceededError.

        Raises:
            OverloadedError: Too much is waiting already.
        """
        if self.queued_rows + rows > self._max_queued_rows and self._waiting:
            wait_s = self._cost.expected_us(self.queued_rows) / 1e6
            raise OverloadedError(
                f"{self.queued_rows} rows wait for this model and {rows} more would pass the limit of "
                f"{self._max_queued_rows}",
                retry_after_s=max(wait_s, 0.05),
            )
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Job, Result] = _Waiting(job, rows, deadline, self._clock(), loop.create_future())
        self._waiting.append(waiting)
        self.queued_rows += rows
        if deadline is not None and self.busy:
            timer = loop.call_later(deadline - waiting.submitted, _expire, waiting)
            waiting.answer.add_done_callback(lambda _: timer.cancel())
        if self._running < self._max_runs and (self._turn is None or self.queued_rows >= self.max_batch_rows):
            self._schedule(loop)
        return waiting.answer

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._turn is not None:
            if not self._max_delay_s:
                return
            self._turn.cancel()
        if self._max_delay_s and self.queued_rows < self.max_batch_rows:
            self._turn = loop.call_later(self._max_delay_s, self._next_run)
        else:
            self._turn = loop.call_soon(self._next_run)

    def _next_run(self) -> None:
        self._turn = None
        batch, rows = self._next_batch()
        if batch:
            started = self._clock()
            jobs = [waiting.job for waiting in batch]
            if rows <= self._inline_rows:
                try:
                    results = self._run(jobs)
                except Exception as error:  # noqa: BLE001 (whatever it is, each caller must hear of it)
                    self._failed(batch, error)
                else:
                    self._settle(batch, rows, started, results)
            else:
                self._run_on_thread(batch, rows, started, jobs)
        if self._waiting and self._running < self._max_runs:
            self._schedule(asyncio.get_running_loop())

    def _next_batch(self) -> tuple[list[_Waiting[Job, Result]], int]:
        """The oldest jobs that fit one run; cancelled ones are dropped, expired ones are told so."""
        batch: list[_Waiting[Job, Result]] = []
        rows, limit = 0, self._inline_rows
        now = self._clock()
        while self._waiting:
            waiting = self._waiting[0]
            if batch and (rows + waiting.rows > limit or waiting.alone or batch[0].alone):
                break
            self._waiting.popleft()
            self.queued_rows -= waiting.rows
            if waiting.answer.done():
                continue
            if waiting.deadline is not None and now >= waiting.deadline:
                _expire(waiting)
                continue
            if waiting.rows > self._inline_rows:
                limit = self.max_batch_rows
            batch.append(waiting)
            rows += waiting.rows
        return batch, rows

    def _run_on_thread(self, batch: list[_Waiting[Job, Result]], rows: int, started: float, jobs: list[Job]) -> None:
        def done(ran: "asyncio.Future[Sequence[Result | RequestError]]") -> None:
            self._running -= 1
            error = None if ran.cancelled() else ran.exception()
            if ran.cancelled():
                _fail(batch, ModelFaultError("the server stopped while the model ran"))
            elif isinstance(error, Exception):
                self._failed(batch, error)
            else:
                self._settle(batch, rows, started, ran.result())
            if self._waiting and self._turn is None:
                self._schedule(loop)

        loop = asyncio.get_running_loop()
        self._running += 1
        loop.run_in_executor(self._executor, self._run, jobs).add_done_callback(done)

    def _failed(self, batch: list[_Waiting[Job, Result]], error: Exception) -> None:
        """Tell the one that failed; of several, run each again by itself, so that one bad request spoils no other. Where it is
        no request's fault that would only fail as often, and as slowly, as there are requests.
        """
        if isinstance(error, (UnavailableError, OverloadedError)):
            for waiting in batch:
                _fail([waiting], copy(error))  # each caller raises its own, and adds its traceback to it
            return
        if len(batch) == 1:
            _fail(batch, error if isinstance(error, RequestError) else ModelFaultError(f"the model failed: {error}"))
            return
        for waiting in reversed(batch):
            waiting.alone = True
            self._waiting.appendleft(waiting)
            self.queued_rows += waiting.rows

    def _settle(
        self,
        batch: list[_Waiting[Job, Result]],
        rows: int,
        started: float,
        results: Sequence[Result | RequestError],
    ) -> None:
        run_s = self._clock() - started
        self._on_run(rows, run_s)
        for waiting, result in zip(batch, results, strict=True):
            answer = waiting.answer
            # A caller that went away has cancelled its future; setting that one would raise.
            if answer.done():
                continue
            if isinstance(result, RequestError):
                answer.set_exception(result)
            else:
                answer.set_result(Ran(result, started - waiting.submitted, run_s))


def _expire(waiting: _Waiting[Job, Result]) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(DeadlineExceededError("the deadline passed while the request waited"))


def _fail(batch: Sequence[_Waiting[Job, Result]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
