import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from driftwheel.errors import (
    DeadlineExceededError,
    ModelFaultError,
    NotFiniteError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from serving.batching import Batcher, RunCost


class Doubler:
    """Doubles what it gets, once it is let through; -1 makes the run fail, -2 that one job."""

    def __init__(self, *, open_: bool = True) -> None:
        self.open = threading.Event()
        if open_:
            self.open.set()
        self.runs: list[list[int]] = []
        self.threads: list[int] = []

    def __call__(self, jobs):
        self.open.wait(10)
        self.runs.append(list(jobs))
        self.threads.append(threading.get_ident())
        if -1 in jobs:
            raise ValueError("minus one")
        return [NotFiniteError("minus two") if job == -2 else job * 2 for job in jobs]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def batcher(run, *, inline_us: float = 0, queued: int = 100, batch: int = 64, **settings) -> Batcher[int, int]:
    return Batcher(
        run,
        cost=RunCost(fixed_us=100, row_us=1),
        inline_us=inline_us,
        max_batch_rows=batch,
        max_queued_rows=queued,
        executor=settings.pop("executor", None) or ThreadPoolExecutor(1),
        on_run=settings.pop("on_run", lambda rows, seconds: None),
        clock=settings.pop("clock", lambda: 0.0),
        **settings,
    )


async def results(*answers):
    return [
        one if isinstance(one, Exception) else one.result
        for one in await asyncio.gather(*answers, return_exceptions=True)
    ]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_arrives_in_one_turn_of_the_loop_runs_together() -> None:
    async def main() -> None:
        run = Doubler()
        short = batcher(run, inline_us=200)
        assert await results(*(short.submit(n, 1, None) for n in range(5))) == [0, 2, 4, 6, 8]
        assert await results(short.submit(9, 1, None)) == [18]
        assert run.runs == [[0, 1, 2, 3, 4], [9]]

    asyncio.run(main())


def test_short_runs_stay_on_the_loop_and_long_ones_do_not() -> None:
    async def main() -> None:
        run = Doubler()
        short = batcher(run, inline_us=110)
        await short.submit(1, 10, None)
        await short.submit(2, 11, None)
        here = threading.get_ident()
        assert [thread == here for thread in run.threads] == [True, False]

    asyncio.run(main())


def test_many_short_jobs_do_not_hold_the_loop_longer_than_one_may() -> None:
    async def main() -> None:
        run = Doubler()
        short = batcher(run, inline_us=110)
        await results(*(short.submit(n, 4, None) for n in range(5)))
        assert run.runs == [[0, 1], [2, 3], [4]]
        assert set(run.threads) == {threading.get_ident()}

    asyncio.run(main())


def test_what_arrives_while_a_long_run_is_under_way_forms_the_next_one() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        long = batcher(run)
        first = long.submit(1, 1, None)
        await settle()
        assert long.busy
        rest = [long.submit(n, 1, None) for n in (2, 3, 4)]
        assert (long.queued_rows, run.runs) == (3, [])
        run.open.set()
        assert await results(first, *rest) == [2, 4, 6, 8]
        assert (run.runs, long.queued_rows) == ([[1], [2, 3, 4]], 0)

    asyncio.run(main())


def test_a_run_takes_no_more_rows_than_it_may() -> None:
    async def main() -> None:
        run = Doubler()
        long = batcher(run, batch=3)
        await results(*(long.submit(n, rows, None) for n, rows in ((1, 2), (2, 1), (3, 2), (4, 2), (5, 9))))
        assert run.runs == [[1, 2], [3], [4], [5]]

    asyncio.run(main())


def test_a_bad_job_spoils_no_other() -> None:
    for inline_us in (0, 1000):

        async def main(inline_us: float = inline_us) -> None:
            run = Doubler()
            one = batcher(run, inline_us=inline_us)
            answers = await results(*(one.submit(n, 1, None) for n in (1, -1, 2)))
            assert (answers[0], type(answers[1]), answers[2]) == (2, ModelFaultError, 4)
            assert run.runs == [[1, -1, 2], [1], [-1], [2]]
            assert await results(one.submit(7, 1, None)) == [14]

        asyncio.run(main())


def test_a_job_of_which_only_the_answer_is_bad_fails_alone() -> None:
    async def main() -> None:
        run = Doubler()
        answers = await results(*(batcher(run, inline_us=1000).submit(n, 1, None) for n in (1,)))
        assert answers == [2]
        one = batcher(run, inline_us=1000)
        answers = await results(*(one.submit(n, 1, None) for n in (1, -2, 2)))
        assert (answers[0], type(answers[1]), answers[2]) == (2, NotFiniteError, 4)

    asyncio.run(main())


def test_what_was_cancelled_is_not_run_and_the_rest_goes_on() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        long = batcher(run)
        under_way = long.submit(1, 1, None)
        await settle()
        gone, stays = long.submit(2, 1, None), long.submit(3, 1, None)
        under_way.cancel()
        gone.cancel()
        run.open.set()
        assert (await stays).result == 6
        assert run.runs == [[1], [3]]

    asyncio.run(main())


def test_what_expired_is_told_so_and_not_run() -> None:
    async def main() -> None:
        run, clock = Doubler(open_=False), Clock()
        long = batcher(run, clock=clock)
        first = long.submit(1, 1, None)
        await settle()
        late, in_time = long.submit(2, 1, 5.0), long.submit(3, 1, 50.0)
        clock.now = 5.0
        run.open.set()
        answers = await results(first, late, in_time)
        assert (answers[0], type(answers[1]), answers[2]) == (2, DeadlineExceededError, 6)
        assert run.runs == [[1], [3]]

    asyncio.run(main())


def test_what_expires_during_a_run_is_told_so_before_the_run_ends() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        long = batcher(run, clock=asyncio.get_running_loop().time)
        first = long.submit(1, 1, None)
        await settle()
        with pytest.raises(DeadlineExceededError):
            await long.submit(2, 1, long._clock() + 0.01)
        assert run.runs == []
        run.open.set()
        assert await results(first, long.submit(3, 1, None)) == [2, 6]
        assert run.runs == [[1], [3]]

    asyncio.run(main())


def test_what_expires_during_its_own_run_is_told_so_before_that_ends() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        long = batcher(run, clock=asyncio.get_running_loop().time)
        assert (long.busy, batcher(run, inline_us=200).busy) == (True, False)
        late, patient = long.submit(1, 1, long._clock() + 0.01), long.submit(2, 1, None)
        with pytest.raises(DeadlineExceededError):
            await late
        assert run.runs == []
        run.open.set()
        assert (await patient).result == 4
        assert run.runs == [[1, 2]]

    asyncio.run(main())


def test_several_runs_may_be_under_way_and_no_more() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        with ThreadPoolExecutor(4) as executor:
            remote = batcher(run, max_runs=2, executor=executor)
            answers = []
            for n in range(4):
                answers.append(remote.submit(n, 1, None))
                await settle()
            assert remote.queued_rows == 2
            run.open.set()
            assert await results(*answers) == [0, 2, 4, 6]
        assert sorted(run.runs) == [[0], [1], [2, 3]]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [UnavailableError, OverloadedError])
def test_what_is_no_requests_fault_fails_all_at_once(kind: type[RequestError]) -> None:
    async def main() -> None:
        runs = []

        def run(jobs):
            runs.append(list(jobs))
            raise kind("gone")

        one = batcher(run)
        answers = await results(*(one.submit(n, 1, None) for n in (1, 2)))
        assert [(type(answer), str(answer)) for answer in answers] == [(kind, "gone")] * 2
        assert answers[0] is not answers[1]
        assert (runs, one.queued_rows) == ([[1, 2]], 0)

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        long = batcher(run, queued=10)
        first = long.submit(1, 1, None)
        await settle()
        waiting = long.submit(2, 10, None)
        with pytest.raises(
            OverloadedError, match="10 rows wait for this model and 1 more would pass the limit of 10"
        ) as refused:
            long.submit(3, 1, None)
        assert refused.value.retry_after_s >= 0.05
        run.open.set()
        assert await results(first, waiting) == [2, 4]

    asyncio.run(main())


def test_one_job_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async def main() -> None:
        assert await results(batcher(Doubler(), queued=10).submit(1, 500, None)) == [2]

    asyncio.run(main())


def test_a_delay_lets_a_run_fill_up_and_a_full_one_does_not_wait() -> None:
    async def main() -> None:
        run = Doubler()
        slow = batcher(run, inline_us=1000, batch=3, max_delay_s=30.0)
        first = slow.submit(1, 1, None)
        await settle()
        assert run.runs == []
        rest = [slow.submit(2, 1, None), slow.submit(3, 1, None)]
        assert await results(first, *rest) == [2, 4, 6]
        assert run.runs == [[1, 2, 3]]
        quick = batcher(run, inline_us=1000, max_delay_s=0.001)
        assert await results(quick.submit(4, 1, None)) == [8]

    asyncio.run(main())


def test_each_answer_says_where_its_time_went() -> None:
    async def main() -> None:
        clock, reported = Clock(), []

        def run(jobs):
            clock.now += 3
            return jobs

        one = batcher(run, inline_us=1000, clock=clock, on_run=lambda rows, seconds: reported.append((rows, seconds)))
        answer = one.submit(1, 2, None)
        clock.now += 2
        ran = await answer
        assert (ran.queued_s, ran.run_s, reported) == (2.0, 3.0, [(2, 3.0)])

    asyncio.run(main())


def test_a_runtime_that_ends_with_the_server_fails_its_jobs() -> None:
    async def main() -> None:
        run = Doubler(open_=False)
        executor = ThreadPoolExecutor(1)
        long = batcher(run)
        long._executor = executor
        executor.submit(run.open.wait, 10)
        answer = long.submit(1, 1, None)
        await settle()
        executor.shutdown(wait=False, cancel_futures=True)
        run.open.set()
        with pytest.raises(ModelFaultError, match="the server stopped"):
            await answer

    asyncio.run(main())
