"""The sum of several workers' metrics: exact, and never lower than it was, whoever is asked and whoever dies."""

import asyncio
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.parser import text_string_to_metric_families

from driftwheel.settings import load_settings
from monitoring.metrics import ServingMetrics
from serving import snapshots
from serving.metrics_page import MetricsPage, snapshot_of
from serving.metrics_sum import GAUGES, Sum
from serving.snapshots import SupervisorFile, WorkerFile, exact_parts, metrics_folder, read_all

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class OneWorker:
    """A worker's registry and its file, with the process id that the test gives it."""

    def __init__(self, folder: Path, process: int) -> None:
        self.process = process
        self.folder = folder
        registry = self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["code"], registry=registry)
        self.seconds = Histogram("seconds", "Seconds.", buckets=(0.1, 1.0), registry=registry)
        self.in_flight = Gauge("driftwheel_requests_in_flight", "Now.", registry=registry)
        self.loaded = Gauge("driftwheel_model_version_loaded", "Loaded.", ["version"], registry=registry)
        self.file = WorkerFile(folder, process=process)

    def publish(self) -> None:
        self.file.write(asyncio.run(snapshot_of(self.registry)))

    def scrape(self) -> Values:
        own = asyncio.run(snapshot_of(self.registry))
        self.file.write(own)
        living, supervision = read_all(self.folder, {self.file.name: own})
        return values_of(Sum(living, supervision))


def values_of(collector) -> Values:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def growing(values: Values) -> Values:
    return {
        key: value
        for key, value in values.items()
        if key[0].endswith(("_total", "_count", "_sum", "_bucket")) and not key[0].startswith("driftwheel_worker")
    }


AMOUNTS = st.floats(min_value=1e-9, max_value=1e9)


@given(seed=st.integers(0, 2**32), amounts=st.lists(AMOUNTS, min_size=5, max_size=60))
def test_whatever_happens_no_count_is_ever_lower_and_the_last_is_exact(tmp_path_factory, seed, amounts) -> None:
    chance = random.Random(seed)  # noqa: S311
    folder = tmp_path_factory.mktemp("run") / "metrics" / "1"
    supervisor = SupervisorFile(folder, workers=3)
    workers = [OneWorker(folder, process) for process in (11, 12, 13)]
    published = dict.fromkeys(workers, (Fraction(0), 0))
    counted = dict(published)
    retired, told, seen = (Fraction(0), 0), 0, {}

    def die(index: int) -> None:
        nonlocal retired
        dead = workers[index]
        supervisor.retire(dead.process)
        retired = tuple(map(sum, zip(retired, published.pop(dead), strict=True)))
        counted.pop(dead)
        workers[index] = OneWorker(folder, dead.process)  # with the same process id, which the kernel may well give
        published[workers[index]] = counted[workers[index]] = (Fraction(0), 0)

    for amount in amounts:
        worker = chance.choice(workers)
        step = chance.random()
        if step < 0.5:
            worker.seconds.observe(amount)
            worker.calls.labels("OK").inc()
            total, count = counted[worker]
            counted[worker] = (total + Fraction(amount), count + 1)
        elif step < 0.65:
            worker.publish()
            published[worker] = counted[worker]
        elif step < 0.75:
            die(workers.index(worker))
            told += 1
            if chance.random() < 0.5:
                supervisor.tell(up=3, restarts=told)
        else:
            supervisor.tell(up=3, restarts=told)
            now = worker.scrape()
            published[worker] = counted[worker]
            assert {key for key in growing(seen) if now[key] < seen[key]} == set()
            seen = now
    supervisor.tell(up=3, restarts=told)
    for worker in workers:
        worker.publish()
    last = [worker.scrape() for worker in workers]
    assert last[0] == last[1] == last[2]
    assert {key for key in growing(seen) if last[0][key] < seen[key]} == set()
    totals, counts = zip(*counted.values(), retired, strict=True)
    # A worker's own sum has been rounded at each observation; what is added up here must not be rounded again.
    assert last[0][("seconds_sum", ())] == pytest.approx(float(sum(totals)), rel=1e-12)
    assert last[0][("seconds_count", ())] == last[0].get(("calls_total", (("code", "OK"),)), 0) == sum(counts)
    assert last[0][("driftwheel_worker_restarts_total", ())] == told


@given(st.lists(AMOUNTS, min_size=3, max_size=6))
def test_a_death_does_not_move_a_sum_by_one_rounding_step(tmp_path_factory, amounts: list[float]) -> None:
    folder = tmp_path_factory.mktemp("run") / "metrics" / "1"
    supervisor = SupervisorFile(folder, workers=len(amounts))
    workers = [OneWorker(folder, process) for process in range(len(amounts))]
    for worker, amount in zip(workers, amounts, strict=True):
        worker.seconds.observe(amount / 3)
        worker.publish()
    before = workers[-1].scrape()
    for worker in workers[:-1]:
        supervisor.retire(worker.process)
        supervisor.tell(up=1, restarts=0)
        assert growing(workers[-1].scrape()) == growing(before)


@given(st.lists(st.floats(min_value=-1e300, max_value=1e300), max_size=30))
def test_parts_have_exactly_the_sum_of_the_values(values: list[float]) -> None:
    parts = exact_parts(values)
    assert sum(map(Fraction, parts)) == sum(map(Fraction, values))
    assert exact_parts(parts) == parts


def test_what_is_not_a_number_ends() -> None:
    assert [str(part) for part in exact_parts([1.0, float("inf"), float("nan")])] == ["nan"]


@pytest.mark.parametrize("moment", ["first", "last"])
def test_a_worker_is_seen_once_when_it_is_retired_while_files_are_read(tmp_path, monkeypatch, moment) -> None:
    folder = tmp_path / "metrics" / "1"
    supervisor = SupervisorFile(folder, workers=3)
    workers = [OneWorker(folder, process) for process in (11, 12, 13)]
    for worker in workers:
        worker.calls.labels("OK").inc(worker.process)
        worker.publish()
    read = snapshots._read_worker
    reads = 0

    def interrupted(path: Path):
        nonlocal reads
        reads += 1
        before = read(path) if moment == "last" else None
        if reads == 2:
            monkeypatch.setattr(snapshots, "_read_worker", read)
            supervisor.retire(12)
            supervisor.tell(up=2, restarts=0)
        return before if moment == "last" else read(path)

    supervisor.tell(up=3, restarts=0)
    monkeypatch.setattr(snapshots, "_read_worker", interrupted)
    living, supervision = read_all(folder, {})
    assert values_of(Sum(living, supervision))[("calls_total", (("code", "OK"),))] == 36
    assert [path.name.partition("-")[0] for path in sorted(folder.glob("*.worker"))] == ["11", "13"]


def test_gauges_are_the_living_workers_by_their_own_rules(tmp_path: Path) -> None:
    folder = tmp_path / "metrics" / "1"
    supervisor = SupervisorFile(folder, workers=2)
    one, other = OneWorker(folder, 11), OneWorker(folder, 12)
    for worker in (one, other):
        worker.in_flight.set(3)
        worker.loaded.labels("1").set(1)
    other.loaded.labels("2").set(1)
    other.publish()
    supervisor.tell(up=2, restarts=0)
    values = one.scrape()
    assert values[("driftwheel_requests_in_flight", ())] == 6
    assert values[("driftwheel_model_version_loaded", (("version", "1"),))] == 1
    assert values[("driftwheel_model_version_loaded", (("version", "2"),))] == 0  # not in every worker
    assert (values[("driftwheel_workers", ())], values[("driftwheel_workers_up", ())]) == (2, 2)
    supervisor.retire(other.process)
    supervisor.tell(up=1, restarts=0)
    values = one.scrape()
    assert values[("driftwheel_requests_in_flight", ())] == 3
    assert ("driftwheel_model_version_loaded", (("version", "2"),)) not in values
    assert values[("driftwheel_workers_up", ())] == 1


def test_a_restart_without_a_death_told_counts_nothing_twice(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "metrics" / "1"
    supervisor = SupervisorFile(folder, workers=2)
    one, other = OneWorker(folder, 11), OneWorker(folder, 12)
    other.calls.labels("OK").inc(5)
    other.publish()
    supervisor.retire(12)
    with monkeypatch.context() as full:
        full.setattr(snapshots, "_replace", _full_disk)
        with pytest.raises(OSError, match="no room"):
            supervisor.tell(up=1, restarts=1)
    assert one.scrape()[("calls_total", (("code", "OK"),))] == 5
    supervisor.tell(up=1, restarts=1)
    assert one.scrape()[("calls_total", (("code", "OK"),))] == 5
    assert list(folder.glob("12-*")) == []


def _full_disk(path: Path, content: bytes) -> None:
    raise OSError(28, "no room")


def settings_of(home: Path, workers: int):
    return load_settings(home=home, serving={"workers": workers})


def page_of(home: Path, workers: int, use: Callable) -> str:
    registry = CollectorRegistry()
    Info("about", "About.", registry=registry).info({"version": "1"})
    counter = Counter("calls", "Calls.", registry=registry)

    async def session() -> bytes:
        page = MetricsPage(registry, settings_of(home, workers), settle=counter.inc)
        await page.start()
        use()
        content = await page.content()
        await page.close()
        return content

    return asyncio.run(session()).decode()


def test_one_process_answers_from_its_registry_and_writes_no_file(tmp_path: Path) -> None:
    page = page_of(tmp_path, 1, lambda: None)
    assert "calls_total 1.0" in page
    assert "driftwheel_workers 1.0\n" in page
    assert not (tmp_path / "run").exists()


def test_a_worker_answers_in_the_same_format_even_when_the_disk_is_full(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.getppid", lambda: 7)
    SupervisorFile(metrics_folder(settings_of(tmp_path, 2), supervisor=7), workers=2)
    page = page_of(tmp_path, 2, lambda: monkeypatch.setattr(snapshots, "_replace", _full_disk))
    assert "calls_total 2.0" in page
    assert 'about_info{version="1"} 1.0' in page
    assert {family.name for family in text_string_to_metric_families(page)} >= {"calls", "driftwheel_worker_restarts"}


def test_every_gauge_says_how_it_adds_up() -> None:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    ServingMetrics(registry)
    gauges = {metric.name for metric in registry.collect() if metric.type == "gauge"}
    assert gauges - set(GAUGES) == set(), "add them to serving.metrics_sum.GAUGES"
