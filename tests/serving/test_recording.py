import itertools
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest

from driftwheel.contracts import Arm, Signature
from driftwheel.errors import DeadlineExceededError, OverloadedError
from monitoring.metrics import ServingMetrics
from serving.codes import code_of
from serving.gathering import Gathered
from serving.recording import Recorder, Running, Series
from tests.bundles import RATING_SIGNATURE


@dataclass
class Loaded:
    """As much of a loaded version as is recorded."""

    name: str = "mf"
    version: int = 1
    signature: Signature = RATING_SIGNATURE


class World:
    def __init__(self, **settings) -> None:
        self.metrics = ServingMetrics(CollectorRegistry())
        self.logged, self.now = [], 100.0
        self.recorder = Recorder(
            self.metrics,
            self.log,
            now_us=lambda: 5_000_000,
            clock=lambda: self.now,
            **{"new_token": iter("abcdefghij").__next__, **settings},
        )

    def log(self, series: Series, gathered: Gathered) -> None:
        ids, start = bytes(gathered.ids.content()).decode(), 0
        for size in gathered.ids.sizes():
            self.logged.append((series.code, ids[start : start + size]))
            start += size
        series.give_back(gathered)

    def running(self, version: int = 1, arm: Arm = Arm.STABLE) -> Running:
        return Running(Loaded(version=version), arm, "grpc", "infer", self.now)

    def answer(self, *, rows: int = 2, took_s: float = 0.5, version: int = 1) -> str:
        running = self.running(version)
        self.now += took_s
        columns = {"user_id": np.arange(rows), "item_id": np.arange(rows)}
        return self.recorder.answered(running, columns, {"score": np.zeros(rows, "f4")}, rows, 0.25)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


LABELS = {"model": "mf", "version": "1", "arm": "stable", "protocol": "grpc"}


def test_what_was_answered_is_counted_and_logged_at_the_next_drain() -> None:
    world = World()
    assert (world.answer(), world.answer(rows=3, took_s=0.25)) == ("mf.1.a", "mf.1.b")
    assert (world.logged, world.value("driftwheel_requests_total", **LABELS, code="OK")) == ([], None)
    world.recorder.drain()
    world.recorder.drain()
    assert world.logged == [("OK", "mf.1.a"), ("OK", "mf.1.b")]
    assert world.value("driftwheel_requests_total", **LABELS, code="OK") == 2
    assert world.value("driftwheel_request_duration_seconds_sum", **LABELS) == 0.75
    assert world.value("driftwheel_request_duration_seconds_bucket", **LABELS, le="0.25") == 1
    assert world.value("driftwheel_request_duration_seconds_bucket", **LABELS, le="0.5") == 2
    assert world.value("driftwheel_queue_duration_seconds_count", model="mf", version="1") == 2
    assert world.value("driftwheel_request_rows_sum", model="mf") == 5


def test_much_is_handed_over_at_once_and_its_buffers_are_used_again() -> None:
    world = World(new_token=map(str, itertools.count()).__next__)
    rows = 50_000
    for _ in range(20):
        world.answer(rows=rows)
    assert len(world.logged) == 18  # nine at a time: 50,000 rows of 8 + 8 + 4 bytes are 1 MB
    world.recorder.drain()
    assert [one for _, one in world.logged] == [f"mf.1.{n}" for n in range(20)]
    assert world.value("driftwheel_request_rows_sum", model="mf") == 20 * rows


def test_what_failed_is_told_apart() -> None:
    world = World()
    for error in (OverloadedError("full"), DeadlineExceededError("late")):
        world.recorder.failed(world.running(), error, {}, 1)
        assert world.value("driftwheel_requests_total", **LABELS, code=code_of(error).name) is None
    world.recorder.cancelled(world.running())
    world.recorder.drain()
    counted = [
        world.value(f"driftwheel_{kind}_requests_total", model="mf") for kind in ("shed", "expired", "cancelled")
    ]
    assert counted == [1, 1, 1]
    assert world.value("driftwheel_requests_total", **LABELS, code="DEADLINE_EXCEEDED") == 1
    assert [code for code, _ in world.logged] == ["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"]


def test_the_sample_decides_what_is_logged_and_not_what_is_counted() -> None:
    chances = iter([0.4, 0.6, 0.1])
    world = World(sample=0.5, chance=lambda: next(chances))
    ids = [world.answer() for _ in range(3)]
    world.recorder.drain()
    assert world.logged == [("OK", ids[0]), ("OK", ids[2])]
    assert world.value("driftwheel_requests_total", **LABELS, code="OK") == 3


def test_counting_can_be_off() -> None:
    world = World(sample=0.0, chance=lambda: 0.5, enabled=False)
    world.answer()
    world.recorder.drain()
    assert (world.logged, world.value("driftwheel_requests_total", **LABELS, code="OK")) == ([], None)


def test_a_version_has_statistics() -> None:
    world = World()
    on_run = world.recorder.runs_of("mf", 1)
    world.answer(rows=2, took_s=0.5)
    world.answer(rows=3, took_s=0.5)
    on_run(5, 0.125)
    world.recorder.failed(world.running(), OverloadedError("full"), {}, 1)
    found = world.recorder.statistics("mf", 1)
    assert (found.answered, found.answered_rows, found.answered_s, found.failed) == (2, 5, 1.0, 1)
    assert (found.runs, found.run_rows, found.run_s, found.queued_s, found.last_us) == (1, 5, 0.125, 0.5, 5_000_000)
    assert world.recorder.statistics("mf", 9).runs == 0
    assert world.value("driftwheel_run_rows_sum", model="mf", version="1") == 5


def test_a_retired_version_leaves_no_label_behind() -> None:
    world = World()
    for version in (1, 2):
        world.recorder.runs_of("mf", version)(1, 0.1)
        world.answer(version=version)
    world.recorder.forget("mf", 1)
    page = generate_latest(world.metrics.registry).decode()
    assert 'version="1"' not in page
    assert 'version="2"' in page
    assert [one for one, _ in world.logged] == ["OK", "OK"]


def test_the_page_is_what_prometheus_reads() -> None:
    world = World()
    world.answer()
    world.recorder.drain()
    page = generate_latest(world.metrics.registry).decode()
    assert "# TYPE driftwheel_request_duration_seconds histogram" in page
    assert (
        'driftwheel_request_duration_seconds_bucket{arm="stable",le="+Inf",model="mf",protocol="grpc",version="1"} 1.0'
        in page
    )
