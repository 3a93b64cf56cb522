"""The supervisor: starts the workers that share the port, starts a dead one again, and drains all of them together."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from driftwheel.errors import ConfigurationError, DriftwheelError
from serving import runtime
from serving.loading import forget_process, loading_folder, note_death
from serving.plan import Plan
from serving.runtime import ServerAddress
from serving.snapshots import SupervisorFile, metrics_folder
from serving.worker import Worker

_log = structlog.get_logger()

START_TIMEOUT_S = 60.0
"""How long the bundles may take to load before a start counts as failed."""

_GRACE_S = 0.25
"""How long new connections are still taken once readiness is off, in seconds: what was under way arrives."""

_STEADY_S = 10.0
"""A worker that lived for so long was well; its death says nothing about the next one."""

_MOST_STILLBORN = 3
"""Starts in a row that a worker may die in, before the supervisor gives it up (and tries on while another one answers)."""

_START_LOOK_S, _LOOK_S = 0.02, 0.1
"""How often the workers are looked at, in seconds, while they start and after."""


def restart_pause_s(deaths: int) -> float:
    """How long to wait before a worker is started again.

    Args:
        deaths: How often in a row it died young, 1 or more; the first is taken for an accident.
    """
    return 0.0 if deaths <= 1 else min(0.5 * 2.0 ** (deaths - 2), 30.0)


@dataclass(slots=True)
class _Seat:
    """A worker's place, and what became of those who held it."""

    index: int
    worker: Worker | None = None
    deaths: int = 0
    """In a row, of workers that died young."""
    stillborn: int = 0
    """In a row, of workers that never answered."""
    next_start_s: float = 0.0


class FrontDoor:
    """The workers of one server. Use ``front_door.running``, on the thread that lives longest: workers are tied to it.

    Args:
        plan: With the port that the workers share; 0 only where there is one worker.
        folder: For their configurations and admin sockets.
        launch: Starts the worker of a seat.
        beside: Called at each look at the workers, for what else is to be looked after.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        launch: Callable[[Plan, Path, int], Worker] = Worker,
        beside: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._launch = launch
        self._beside = beside
        self._clock = clock
        self._sleep = sleep
        self._seats = [_Seat(index) for index in range(plan.workers)]
        self._served = False
        self._restarts = 0
        self._mute = False
        self._tally: SupervisorFile | None = None
        if self._shared:
            self._tally = SupervisorFile(metrics_folder(plan, supervisor=os.getpid()), workers=len(self._seats))

    @property
    def _shared(self) -> bool:
        return len(self._seats) > 1

    @property
    def _workers(self) -> list[Worker]:
        return [seat.worker for seat in self._seats if seat.worker is not None]

    @property
    def _up(self) -> int:
        return sum(worker.up for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """The process ids of the living workers."""
        return [worker.pid for worker in self._workers]

    def wait_until_up(self) -> ServerAddress:
        """Start the workers and wait until all of them answer.

        Raises:
            ConfigurationError: None can start, or not all came up in time.
        """
        give_up = self._clock() + START_TIMEOUT_S
        while self._up < len(self._seats):
            if self._clock() >= give_up:
                came = f"; {self._up} of {len(self._seats)} workers did" if self._shared else ""
                raise ConfigurationError(f"the server did not come up within {START_TIMEOUT_S:g} s{came}")
            self._sleep(_START_LOOK_S)
            self._look()
        self._served = True
        return self._address()

    def _address(self) -> ServerAddress:
        for worker in self._workers:
            if (address := worker.address()) is not None:
                return ServerAddress(*address, os.getpid(), tls=self._plan.tls)
        raise ConfigurationError("the server ended as soon as it was up; see above")

    def wait(self) -> NoReturn:
        """Watch over the workers, starting dead ones again, for as long as one of them can be started.

        Raises:
            DriftwheelError: The only worker ended by itself, or none can be started any more.
        """
        while True:
            self._look()
            self._beside()
            self._sleep(_LOOK_S)

    def _look(self) -> None:
        for seat in self._seats:
            if seat.worker is None:
                self._start_when_due(seat)
            elif (how := seat.worker.ended()) is not None:
                self._bury(seat, seat.worker, how)
            elif not seat.worker.up:
                self._look_at_start(seat, seat.worker)
        if self._tally is not None:
            self._tell(self._tally)

    def _tell(self, tally: SupervisorFile) -> None:
        try:
            tally.tell(up=self._up, restarts=self._restarts)
        except OSError as error:  # a full disk; the next look tries again
            if not self._mute:
                _log.error("server.metrics_not_written", reason=str(error))
            self._mute = True
        else:
            self._mute = False

    def _start_when_due(self, seat: _Seat) -> None:
        if self._clock() < seat.next_start_s:
            return
        self._restarts += self._served
        try:
            seat.worker = self._launch(self._plan, self._folder, seat.index)
        except (OSError, DriftwheelError) as error:
            if not self._served:
                raise
            self._count_death(seat, str(error), lived_s=0.0, answered=False)

    def _look_at_start(self, seat: _Seat, worker: Worker) -> None:
        if worker.address() is not None:
            seat.stillborn = 0
            if self._shared:
                _log.info("worker.up", worker=worker.index, process=worker.pid, after_s=round(worker.age_s, 2))
        elif worker.age_s > START_TIMEOUT_S:
            _log.error("worker.start_timeout", worker=worker.index, process=worker.pid, timeout_s=START_TIMEOUT_S)
            worker.kill()

    def _bury(self, seat: _Seat, worker: Worker, how: str) -> None:
        """Keep what a dead worker counted, and see when the next one may take its seat."""
        seat.worker = None
        self._note_death(worker.pid, how)
        if not self._shared:
            raise self._given_up(how)
        if self._tally is not None:
            self._tally.retire(worker.pid)
        self._count_death(seat, how, lived_s=worker.age_s, answered=worker.up)

    def _note_death(self, process: int, how: str) -> None:
        try:
            note_death(loading_folder(self._plan.runtime), process, how)
        except OSError as error:  # a full disk; that it died is known without
            _log.error("worker.death_not_noted", process=process, reason=str(error))

    def _count_death(self, seat: _Seat, how: str, *, lived_s: float, answered: bool) -> None:
        seat.stillborn = 0 if answered else seat.stillborn + 1
        seat.deaths = 1 if answered and lived_s >= _STEADY_S else seat.deaths + 1
        if all(seat.stillborn >= (_MOST_STILLBORN if self._served else 1) for seat in self._seats):
            raise self._given_up(how)
        pause = restart_pause_s(seat.deaths)
        seat.next_start_s = self._clock() + pause
        _log.error("worker.died", worker=seat.index, by=how, lived_s=round(lived_s, 2), again_in_s=pause)

    def _given_up(self, how: str) -> DriftwheelError:
        if not self._served:
            return ConfigurationError(f"the server ended at start with {how}; see above")
        if not self._shared:
            return DriftwheelError(f"the server ended by itself with {how}")
        return DriftwheelError(f"none of the {len(self._seats)} workers can be started; the last ended with {how}")

    def drain(self) -> None:
        """Readiness off, no new connections, finish what is in flight, flush the log, end; all workers together."""
        try:
            if serving := [worker for worker in self._workers if worker.up and worker.ended() is None]:
                self._drain_connections(serving)
        finally:
            self.end()
            if self._tally is not None:
                self._tally.remove()

    def _drain_connections(self, workers: list[Worker]) -> None:
        runtime.request_drain(self._plan)
        for worker in workers:
            worker.send_away()
        self._sleep(_GRACE_S)
        for worker in workers:
            worker.close_port()
        give_up = self._clock() + self._plan.drain_timeout_s
        while workers:
            if self._clock() >= give_up:
                _log.warning("server.drain_cut_short", timeout_s=self._plan.drain_timeout_s)
                return
            for worker in [worker for worker in workers if worker.is_idle()]:
                worker.terminate()  # now, while it is idle, though the others are not
                workers.remove(worker)
            self._sleep(0.05)

    def end(self) -> None:
        """Stop the processes."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()
            forget_process(loading_folder(self._plan.runtime), worker.pid)
