"""What is kept of every request: its metrics, and its row in the prediction log.

A request costs the event loop one tuple in a list. Every flush interval the tuples are turned into counts and into Arrow
batches, many at a time; a scrape of the metrics does the counting at once, so that nothing it shows is late.
"""

import itertools
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from driftwheel.contracts import Arm, Signature
from driftwheel.errors import DeadlineExceededError, OverloadedError, RequestError
from monitoring.metrics import ServingMetrics
from serving.codec import Columns
from serving.codes import OK_CODE, Code, code_of
from serving.engine import LoadedVersion

Record = tuple[str, int, float, float, int, Columns, Columns | None]
"""A request: prediction id, time in microseconds since the epoch, seconds in all and in the queue, rows, inputs, outputs
(None where the model failed)."""

Unlogged = tuple[float, float, int]
"""A request that the sample left out: seconds in all and in the queue, rows."""


@dataclass(slots=True, eq=False)
class Series:
    """Requests that differ in nothing that is counted apart."""

    model: str
    version: int
    signature: Signature
    arm: Arm
    protocol: str
    kind: str
    code: str
    prefix: str
    """What the prediction ids of this version begin with."""
    records: list[Record] = field(default_factory=list[Record])
    unlogged: list[Unlogged] = field(default_factory=list[Unlogged])


@dataclass(slots=True, eq=False)
class Running:
    """A request that a version has taken."""

    loaded: LoadedVersion
    arm: Arm
    protocol: str
    kind: str
    started: float
    """``time.monotonic`` when its body had been read."""


@dataclass(slots=True)
class Statistics:
    """What one version has done in this process: counts, and sums in seconds."""

    answered_rows: int = 0
    runs: int = 0
    """Runs of the graph."""
    run_rows: int = 0
    run_s: float = 0.0
    answered: int = 0
    answered_s: float = 0.0
    """From the body's being read to the answer's being ready."""
    failed: int = 0
    failed_s: float = 0.0
    queued_s: float = 0.0
    last_us: int = 0
    """The last request, in microseconds since the epoch; 0 before the first."""


Sink = Callable[[Series, Sequence[Record]], None]


class Recorder:
    """Counts and logs.

    Args:
        sink: Takes the records that are to be logged, at each flush.
        sample: The share of requests that are logged.
        enabled: False: nothing is counted (a benchmark's baseline).
        new_token: A new part of a prediction id for each call, unique over all processes and starts.
        chance: Uniform in [0, 1), for sampling.
        now_us: The time, in microseconds since the epoch.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        metrics: ServingMetrics,
        sink: Sink,
        *,
        sample: float = 1.0,
        enabled: bool = True,
        new_token: Callable[[], str] | None = None,
        chance: Callable[[], float] = random.random,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._sink = sink
        self._sample = sample
        self._enabled = enabled
        self._new_token = new_token or _token_maker()
        self._chance = chance
        self._now_us = now_us
        self._clock = clock
        self._series: dict[tuple[str, int, Arm, str, str, str], Series] = {}
        self._statistics: dict[tuple[str, int], Statistics] = {}
        self._runs: dict[tuple[str, int], list[tuple[int, float]]] = {}

    def token(self) -> str:
        """A string that no other call returns."""
        return self._new_token()

    def answered(self, running: Running, inputs: Columns, outputs: Columns, rows: int, queued_s: float = 0.0) -> str:
        """Record an answer; its prediction id, which feedback will name."""
        return self._record(running, OK_CODE, inputs, outputs, rows, queued_s)

    def failed(self, running: Running, error: RequestError, inputs: Columns, rows: int) -> None:
        """Record what a version could not answer."""
        if isinstance(error, OverloadedError):
            self._metrics.shed.labels(running.loaded.name).inc()
        elif isinstance(error, DeadlineExceededError):
            self._metrics.expired.labels(running.loaded.name).inc()
        self._record(running, code_of(error), inputs, None, rows, 0.0)

    def cancelled(self, running: Running) -> None:
        """Count a request whose caller left."""
        self._metrics.cancelled.labels(running.loaded.name).inc()

    def refused(self, code: Code, *, model: str, protocol: str) -> None:
        """Count a request that no version took. ``model`` must be a served one or ``unknown``: labels are bounded."""
        self._metrics.requests.labels(model, "none", "none", protocol, code.name).inc()

    def _record(
        self, running: Running, code: Code, inputs: Columns, outputs: Columns | None, rows: int, queued_s: float
    ) -> str:
        loaded = running.loaded
        key = (loaded.name, loaded.version, running.arm, running.protocol, running.kind, code.name)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(
                *key[:2], loaded.signature, *key[2:], prefix=f"{loaded.name}.{loaded.version}."
            )
        prediction_id = series.prefix + self._new_token()
        if self._sample >= 1.0 or self._chance() < self._sample:
            total_s = self._clock() - running.started
            series.records.append((prediction_id, self._now_us(), total_s, queued_s, rows, inputs, outputs))
        elif self._enabled:
            series.unlogged.append((self._clock() - running.started, queued_s, rows))
        return prediction_id

    def runs_of(self, model: str, version: int) -> Callable[[int, float], None]:
        """What a version's batchers report each run to: its rows and its seconds."""
        runs = self._runs.setdefault((model, version), [])
        return lambda rows, seconds: runs.append((rows, seconds))

    def statistics(self, model: str, version: int) -> Statistics:
        """What a version has done until now."""
        self.drain()
        return self._statistics.get((model, version), Statistics())

    def forget(self, model: str, version: int) -> None:
        """Let go of a version that has been retired, and of its metrics."""
        self.drain()
        self._statistics.pop((model, version), None)
        self._runs.pop((model, version), None)
        self._series = {key: series for key, series in self._series.items() if key[:2] != (model, version)}
        self._metrics.forget(model, str(version))

    def drain(self) -> None:
        """Count what was recorded since the last time, and hand what is logged to the sink."""
        for (model, version), runs in self._runs.items():
            if runs and self._enabled:
                self._count_runs(model, version, runs)
            runs.clear()
        for series in self._series.values():
            records, unlogged = series.records, series.unlogged
            if not records and not unlogged:
                continue
            series.records, series.unlogged = [], []
            if self._enabled:
                self._count(series, [*unlogged, *(record[2:5] for record in records)])
            if records:
                self._sink(series, records)

    def _count(self, series: Series, requests: Sequence[Unlogged]) -> None:
        model, version = series.model, str(series.version)
        total_s, queued_s, rows = zip(*requests, strict=True)
        metrics = self._metrics
        metrics.requests.labels(model, version, series.arm, series.protocol, series.code).inc(len(requests))
        metrics.latency.labels(model, version, series.arm, series.protocol).observe_many(total_s)
        metrics.request_rows.labels(model).observe_many(rows)
        metrics.queue.labels(model, version).observe_many(queued_s)
        statistics = self._statistics.setdefault((model, series.version), Statistics())
        statistics.last_us = self._now_us()
        statistics.queued_s += sum(queued_s)
        if series.code == OK_CODE.name:
            statistics.answered += len(requests)
            statistics.answered_s += sum(total_s)
            statistics.answered_rows += sum(rows)
        else:
            statistics.failed += len(requests)
            statistics.failed_s += sum(total_s)

    def _count_runs(self, model: str, version: int, runs: Sequence[tuple[int, float]]) -> None:
        rows, seconds = zip(*runs, strict=True)
        self._metrics.run_rows.labels(model, str(version)).observe_many(rows)
        self._metrics.compute.labels(model, str(version)).observe_many(seconds)
        statistics = self._statistics.setdefault((model, version), Statistics())
        statistics.runs += len(runs)
        statistics.run_rows += sum(rows)
        statistics.run_s += sum(seconds)


def _token_maker() -> Callable[[], str]:
    prefix, counter = secrets.token_hex(6), itertools.count()
    return lambda: f"{prefix}{next(counter):x}"
