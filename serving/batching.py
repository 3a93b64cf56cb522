"""Batching without idle wait: an idle model runs at once; while it runs, what arrives forms the next batch."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import DeadlineExceededError, ModelFaultError, OverloadedError
from serving.backends.base import Backend, Feed

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run takes, as measured at warm-up: a fixed part and a part for each row, in microseconds."""

    fixed_us: float
    row_us: float

    def expected_us(self, rows: int) -> float:
        return self.fixed_us + self.row_us * rows


@dataclass(slots=True)
class _Waiting:
    feed: Feed
    rows: int
    deadline: float | None
    answer: asyncio.Future[Outputs]


class Batcher:
    """Runs one version's graph for many callers on one event loop.

    Short runs stay on the loop (a thread's hand-over costs more than they do); long ones go to ``executor``, one at a time.

    Args:
        cost: Decides which runs are short.
        inline_us: The longest run, in microseconds, that may hold up the loop.
        max_batch_rows: The most rows of one run.
        max_queued_rows: The most rows that wait.
        on_run: Called with the rows of each run.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        cost: RunCost,
        inline_us: float,
        max_batch_rows: int,
        max_queued_rows: int,
        executor: Executor,
        on_run: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._cost = cost
        self._inline_rows = _rows_within(cost, inline_us)
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._executor = executor
        self._on_run = on_run
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self.queued_rows = 0
        self._worker: asyncio.Task[None] | None = None

    async def run(self, feed: Feed, rows: int, deadline: float | None) -> Outputs:
        """Answer one request.

        Args:
            deadline: When the caller stops waiting, by ``clock``; None: never.

        Raises:
            OverloadedError: Too much is waiting already.
            DeadlineExceededError: The deadline passed before the run began.
            ModelFaultError: The run failed.
        """
        if self._worker is None and rows <= self._inline_rows:
            self._on_run(rows)
            return self._backend.run(feed)
        if self.queued_rows + rows > self._max_queued_rows and self._waiting:
            wait_s = self._cost.expected_us(self.queued_rows) / 1e6
            raise OverloadedError(
                f"{self.queued_rows} rows wait for this model and {rows} more would pass the limit of "
                f"{self._max_queued_rows}",
                retry_after_s=max(wait_s, 0.05),
            )
        waiting = _Waiting(feed, rows, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self.queued_rows += rows
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await waiting.answer

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._run_batch(batch)
        finally:
            self._worker = None

    def _next_batch(self) -> list[_Waiting]:
        """The oldest requests that fit one run; cancelled ones are dropped, expired ones are told so."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= self._max_batch_rows):
            waiting = self._waiting.popleft()
            self.queued_rows -= waiting.rows
            if waiting.answer.done():
                continue
            if waiting.deadline is not None and self._clock() >= waiting.deadline:
                waiting.answer.set_exception(DeadlineExceededError("the deadline passed while the request waited"))
                continue
            batch.append(waiting)
            rows += waiting.rows
        return batch

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        rows = sum(waiting.rows for waiting in batch)
        self._on_run(rows)
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._executor, self._backend.run, _joined(batch))
        except Exception as error:  # noqa: BLE001 (whatever it is, each caller must hear of it, and the worker go on)
            await self._settle_failed(batch, error)
            return
        start = 0
        for waiting in batch:
            _settle(waiting, {name: array[start : start + waiting.rows] for name, array in outputs.items()})
            start += waiting.rows

    async def _settle_failed(self, batch: list[_Waiting], error: Exception) -> None:
        """Run each request of a failed batch alone, so that one bad request spoils no other."""
        if len(batch) > 1:
            for waiting in batch:
                await self._run_batch([waiting])
        elif not batch[0].answer.done():
            fault = error if isinstance(error, ModelFaultError) else ModelFaultError(f"the model failed: {error}")
            batch[0].answer.set_exception(fault)


def _rows_within(cost: RunCost, inline_us: float) -> int:
    if cost.row_us <= 0:
        return 2**31 if cost.fixed_us <= inline_us else 0
    return int(max(0.0, inline_us - cost.fixed_us) / cost.row_us)


def _joined(batch: list[_Waiting]) -> Feed:
    if len(batch) == 1:
        return batch[0].feed
    return {name: np.concatenate([waiting.feed[name] for waiting in batch]) for name in batch[0].feed}


def _settle(waiting: _Waiting, outputs: Outputs) -> None:
    # A caller that went away has cancelled its future; setting that one would raise and end the worker.
    if not waiting.answer.done():
        waiting.answer.set_result(outputs)
