import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from driftwheel.errors import DeadlineExceededError, ModelFaultError, OverloadedError
from serving.batching import Batcher, RunCost


class Gate:
    """A backend that waits to be let through, and doubles what it gets; -1 makes it fail."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.runs: list[int] = []

    def run(self, feed):
        self.open.wait(10)
        self.runs.append(len(feed["x"]))
        if (feed["x"] == -1).any():
            raise ModelFaultError("minus one")
        return {"y": feed["x"] * 2}


def batcher(backend, *, inline_us: float = 0, queued: int = 100, batch: int = 64, clock=lambda: 0.0) -> Batcher:
    return Batcher(
        backend,
        cost=RunCost(fixed_us=100, row_us=1),
        inline_us=inline_us,
        max_batch_rows=batch,
        max_queued_rows=queued,
        executor=ThreadPoolExecutor(1),
        on_run=lambda rows: None,
        clock=clock,
    )


def ask(batch: Batcher, *values: int, deadline: float | None = None):
    return asyncio.ensure_future(batch.run({"x": np.array(values)}, len(values), deadline))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_short_run_stays_on_the_loop() -> None:
    backend = Gate()
    backend.open.set()

    async def main() -> None:
        thread: list[int] = []
        run = backend.run
        backend.run = lambda feed: (thread.append(threading.get_ident()), run(feed))[1]
        short = batcher(backend, inline_us=110)
        assert (await short.run({"x": np.arange(10)}, 10, None))["y"].tolist() == list(range(0, 20, 2))
        assert thread == [threading.get_ident()]
        await short.run({"x": np.arange(11)}, 11, None)
        assert thread[1] != threading.get_ident()

    asyncio.run(main())


def test_what_arrives_while_it_runs_forms_the_next_batch() -> None:
    backend = Gate()

    async def main() -> None:
        batch = batcher(backend)
        first = ask(batch, 1)
        await settle()
        later = [ask(batch, *range(n)) for n in (2, 3, 1)]
        await settle()
        assert batch.queued_rows == 6
        backend.open.set()
        assert (await first)["y"].tolist() == [2]
        answers = [(await one)["y"].tolist() for one in later]
        assert answers == [[0, 2], [0, 2, 4], [0]]
        assert (backend.runs, batch.queued_rows) == ([1, 6], 0)

    asyncio.run(main())


def test_a_batch_stays_below_its_limit() -> None:
    backend = Gate()

    async def main() -> None:
        batch = batcher(backend, batch=4)
        asked = [ask(batch, *range(n)) for n in (1, 3, 2, 2, 9)]
        await settle()
        backend.open.set()
        await asyncio.gather(*asked)
        assert backend.runs == [4, 4, 9]

    asyncio.run(main())


def test_past_the_bound_the_answer_is_overloaded() -> None:
    backend = Gate()

    async def main() -> None:
        batch = batcher(backend, queued=10)
        first = ask(batch, 1)
        await settle()
        waiting = ask(batch, *range(8))
        await settle()
        with pytest.raises(OverloadedError, match="8 rows wait") as caught:
            await batch.run({"x": np.arange(3)}, 3, None)
        assert caught.value.retry_after_s > 0
        backend.open.set()
        await asyncio.gather(first, waiting)

    asyncio.run(main())


def test_cancelled_and_expired_requests_are_not_run_and_the_rest_go_on() -> None:
    backend, now = Gate(), [0.0]

    async def main() -> None:
        batch = batcher(backend, clock=lambda: now[0])
        first = ask(batch, 1)
        await settle()
        cancelled, expired, kept = ask(batch, 2, 2), ask(batch, 3, 3, 3, deadline=1.0), ask(batch, 4, deadline=9.0)
        await settle()
        cancelled.cancel()
        now[0] = 5.0
        backend.open.set()
        await first
        with pytest.raises(DeadlineExceededError):
            await expired
        assert (await kept)["y"].tolist() == [8]
        assert (backend.runs, cancelled.cancelled(), batch.queued_rows) == ([1, 1], True, 0)

    asyncio.run(main())


def test_a_caller_that_leaves_during_the_run_does_not_stop_the_worker() -> None:
    backend = Gate()

    async def main() -> None:
        batch = batcher(backend)
        gone = ask(batch, 1)
        await asyncio.sleep(0.05)
        gone.cancel()
        await settle()
        backend.open.set()
        assert (await asyncio.wait_for(ask(batch, 5), 5))["y"].tolist() == [10]

    asyncio.run(main())


def test_one_bad_request_spoils_no_other() -> None:
    backend = Gate()

    async def main() -> None:
        batch = batcher(backend)
        first = ask(batch, 1)
        await settle()
        good, bad, fine = ask(batch, 2), ask(batch, -1), ask(batch, 3)
        await settle()
        backend.open.set()
        await first
        results = await asyncio.gather(good, bad, fine, return_exceptions=True)
        assert isinstance(results[1], ModelFaultError)
        assert (results[0]["y"].tolist(), results[2]["y"].tolist()) == ([4], [6])

    asyncio.run(main())
