"""The supervisor over workers that the test lets live and die, with a clock that only it moves."""

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from driftwheel.errors import ConfigurationError, DriftwheelError
from driftwheel.settings import load_settings
from serving import runtime
from serving.front_door import planned
from serving.plan import Plan
from serving.snapshots import Supervision, metrics_folder
from serving.supervisor import START_TIMEOUT_S, FrontDoor, restart_pause_s


class Clock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


class FakeWorker:
    """A worker that answers when it is told to."""

    def __init__(self, world: "World", index: int) -> None:
        self.world, self.index, self.pid = world, index, 100 + len(world.started)
        self.started_s, self.up, self.answers, self.how = world.clock.now, False, world.answers, world.dies
        self.idle, self.said = True, []

    @property
    def age_s(self) -> float:
        return self.world.clock.now - self.started_s

    def ended(self) -> str | None:
        return self.how

    def address(self) -> tuple[str, int] | None:
        self.up = self.up or self.answers
        return ("127.0.0.1", 1234) if self.up else None

    def send_away(self) -> None:
        self.said.append("send away")

    def close_port(self) -> None:
        self.said.append("close port")

    def is_idle(self) -> bool:
        return self.idle

    def terminate(self) -> None:
        self.said.append("terminate")

    def wait(self) -> None:
        self.how = self.how or "exit code 0"

    def kill(self) -> None:
        self.how = "signal SIGKILL"


class World:
    """Two workers' world."""

    def __init__(self, home: Path, workers: int = 2) -> None:
        self.plan = planned(load_settings(home=home, serving={"port": 1234, "workers": workers}))
        self.clock = Clock()
        self.started: list[tuple[float, FakeWorker]] = []
        self.answers, self.dies = True, None
        self.refuses: Exception | None = None
        self.door = FrontDoor(self.plan, home, launch=self.launch, clock=lambda: self.clock.now, sleep=self.clock.sleep)

    def launch(self, plan: Plan, folder: Path, index: int) -> FakeWorker:
        if self.refuses is not None:
            raise self.refuses
        worker = FakeWorker(self, index)
        self.started.append((self.clock.now, worker))
        return worker

    def watch(self, seconds: float) -> None:
        """Let the supervisor watch for so long."""
        until = self.clock.now + seconds

        def leave() -> None:
            if self.clock.now >= until:
                raise TimeoutError

        self.clock.on_sleep = leave
        with pytest.raises(TimeoutError):
            self.door.wait()
        self.clock.on_sleep = lambda: None

    def told(self) -> Supervision:
        (path,) = metrics_folder(self.plan, supervisor=0).parent.glob("*/supervisor")
        return msgspec.msgpack.decode(path.read_bytes(), type=Supervision)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_server_is_up_when_all_workers_answer(world: World) -> None:
    world.answers = False

    def answer() -> None:
        for at, worker in world.started:
            worker.answers = world.clock.now - at > 1 + worker.index

    world.clock.on_sleep = answer
    assert world.door.wait_until_up().target == "127.0.0.1:1234"
    assert world.clock.now > 2
    assert (world.told().up, world.told().restarts) == (2, 0)


def test_workers_that_cannot_start_end_the_start_at_once(world: World) -> None:
    world.dies = "exit code 1"
    with pytest.raises(ConfigurationError, match="ended at start with exit code 1"):
        world.door.wait_until_up()
    assert world.clock.now < 1


def test_one_that_does_not_come_up_in_time_is_counted(world: World) -> None:
    world.answers = False

    def answer() -> None:
        world.started[0][1].answers = True

    world.clock.on_sleep = lambda: world.started and answer()
    with pytest.raises(ConfigurationError, match=f"within {START_TIMEOUT_S:g} s; 1 of 2 workers did"):
        world.door.wait_until_up()


def test_a_dead_worker_is_started_again_and_the_other_goes_on(world: World) -> None:
    world.door.wait_until_up()
    world.watch(60)
    (_, first), (_, second) = world.started
    first.how = "signal SIGKILL"
    world.watch(1)
    assert [worker.index for _, worker in world.started] == [0, 1, 0]
    assert world.door.pids == [world.started[2][1].pid, second.pid]
    assert (world.told().up, world.told().restarts) == (2, 1)


def test_one_that_dies_young_again_and_again_is_started_less_and_less_often(world: World) -> None:
    world.door.wait_until_up()
    started = len(world.started)
    world.started[0][1].how = world.dies = "exit code 1"
    world.watch(200)
    times = [at for at, _ in world.started[started:]]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    expected = [restart_pause_s(deaths) for deaths in range(2, 2 + len(pauses))]
    assert pauses == pytest.approx(expected, abs=0.3)
    assert expected[:3] == [0.5, 1.0, 2.0]
    assert expected[-1] == 30.0
    world.dies = None  # what was wrong is put right
    world.watch(60)
    assert world.told().up == 2
    restarts = world.told().restarts
    world.started[-1][1].how = "signal SIGSEGV"
    world.watch(1)  # and it has been well for long enough since
    assert (world.told().up, world.told().restarts) == (2, restarts + 1)


@pytest.mark.parametrize("refusal", [OSError(12, "Cannot allocate memory"), ConfigurationError("no certificate")])
def test_a_start_that_is_refused_is_tried_again(world: World, refusal: Exception) -> None:
    world.door.wait_until_up()
    world.refuses = refusal
    world.started[1][1].how = "signal SIGKILL"
    world.watch(5)
    assert world.told().up == 1
    world.refuses = None
    world.watch(20)
    assert world.told().up == 2


def test_a_worker_that_hangs_at_its_start_is_killed(world: World) -> None:
    world.door.wait_until_up()
    world.answers = False
    world.started[1][1].how = "signal SIGKILL"
    world.watch(START_TIMEOUT_S + 2)
    assert [worker.how for _, worker in world.started[2:]] == ["signal SIGKILL", None]
    assert world.told().up == 1


def test_the_supervisor_gives_up_only_when_no_worker_can_be_started(world: World) -> None:
    world.door.wait_until_up()
    world.dies = "exit code 7"
    for _, worker in world.started:
        worker.how = "signal SIGKILL"
    with pytest.raises(DriftwheelError, match="none of the 2 workers can be started; the last ended with exit code 7"):
        world.door.wait()
    assert len(world.started) > 4


def test_a_single_worker_takes_the_server_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, workers=1)
    world.door.wait_until_up()
    world.started[0][1].how = "signal SIGKILL"
    with pytest.raises(DriftwheelError, match="the server ended by itself with signal SIGKILL"):
        world.door.wait()
    assert not (world.plan.runtime / "metrics").exists()


def test_all_workers_drain_together_and_an_idle_one_does_not_wait_for_a_busy_one(world: World) -> None:
    world.plan.runtime.mkdir(parents=True, exist_ok=True)
    world.door.wait_until_up()
    (_, idle), (_, busy) = world.started
    busy.idle = False
    ended_while_busy = []

    def finish() -> None:
        ended_while_busy.append(list(idle.said))
        busy.idle = world.clock.now > 5

    world.clock.on_sleep = finish
    world.door.drain()
    assert runtime.drain_requested(world.plan)
    assert idle.said[:3] == busy.said[:3] == ["send away", "close port", "terminate"]
    assert ended_while_busy[0] == ["send away"]
    assert "terminate" in ended_while_busy[2]
    assert 5 < world.clock.now < 6
    assert not (world.plan.runtime / "metrics").exists()


def test_a_drain_that_takes_too_long_is_cut_short(world: World) -> None:
    world.door.wait_until_up()
    for _, worker in world.started:
        worker.idle = False
    world.door.drain()
    assert world.clock.now == pytest.approx(world.plan.drain_timeout_s, abs=1)
    assert all(worker.how == "exit code 0" for _, worker in world.started)


def test_a_worker_that_is_still_starting_is_ended_without_a_drain(world: World) -> None:
    world.door.wait_until_up()
    world.answers = False
    world.started[1][1].how = "signal SIGKILL"
    world.watch(1)
    world.door.drain()
    assert world.started[2][1].said == ["terminate"]
