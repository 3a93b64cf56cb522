"""What is kept of every request: its metrics, and its row in the prediction log.

A request costs the event loop one copy of its bytes. Every flush interval, or as soon as there is much, what was gathered is
counted and handed to the log; a scrape of the metrics does the counting at once, so that nothing it shows is late.
"""

import itertools
import random
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from driftwheel.contracts import Arm, Signature
from driftwheel.errors import DeadlineExceededError, OverloadedError, RequestError
from monitoring.metrics import ServingMetrics
from serving.codec import Columns
from serving.codes import OK_CODE, Code, code_of
from serving.engine import LoadedVersion
from serving.gathering import FACTS, Gathered

_HAND_OVER_BYTES = 2**23
"""What is gathered at most before the log gets it, as ``Gathered`` counts it: some 400 requests of 1000 pairs, which take 3 MB.
Enough that waking the log's thread costs little for each (with half of it, 8% of their rate), and little enough for the
processor's outer cache."""

_SPARE = 4
"""Emptied buffers that are kept for each series."""

_COUNTED = FACTS.index("total_s")
"""From here on, the facts are those that are counted."""


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
    gathered: Gathered = field(init=False)
    """Requests that are to be logged."""
    unlogged: "array[float]" = field(default_factory=lambda: array("d"))
    """Of requests that the sample left out: seconds in all and in the queue, rows, one after the other."""
    spare: list[Gathered] = field(default_factory=list[Gathered])

    def __post_init__(self) -> None:
        self.gathered = Gathered(self.signature)

    def take(self) -> Gathered:
        """What has been gathered; ``give_back`` it once it is written."""
        taken, self.gathered = self.gathered, self.spare.pop() if self.spare else Gathered(self.signature)
        return taken

    def give_back(self, gathered: Gathered) -> None:
        """Use buffers again. May be called on any thread."""
        gathered.empty()
        if len(self.spare) < _SPARE:
            self.spare.append(gathered)


class Running(Struct, eq=False):
    """A request that a version has taken. A struct, as all that is made for each request: a third of a dataclass's cost."""

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


Sink = Callable[[Series, Gathered], None]
"""Takes what is to be logged, and gives it back to its series in the end."""


class Recorder:
    """Counts and logs.

    Args:
        sink: Takes what is to be logged.
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
        self._clock_began_us = now_us() - 1e6 * clock()
        """When ``clock`` was 0: one clock is read for each request, and both at each drain."""

    def token(self) -> str:
        """A string that no other call returns."""
        return self._new_token()

    def answered(
        self,
        running: Running,
        inputs: Columns,
        outputs: Columns | None,
        rows: int,
        queued_s: float = 0.0,
        *,
        twin: str = "",
        code: Code = OK_CODE,
    ) -> str:
        """Record an answer, or the error in its place; the prediction id, which feedback will name.

        Args:
            outputs: None with an error.
            twin: The id of the request that this was a copy of, which it is recorded under.
        """
        loaded = running.loaded
        key = (loaded.name, loaded.version, running.arm, running.protocol, running.kind, code.name)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(
                *key[:2], loaded.signature, *key[2:], prefix=f"{loaded.name}.{loaded.version}."
            )
        prediction_id = twin or series.prefix + self._new_token()
        # A copy is logged always: a sample of copies of a sample would leave few pairs.
        if twin or self._sample >= 1.0 or self._chance() < self._sample:
            gathered, ended = series.gathered, self._clock()
            at_us = self._clock_began_us + 1e6 * ended
            gathered.append(prediction_id, at_us, ended - running.started, queued_s, rows, inputs, outputs)
            if gathered.held_bytes >= _HAND_OVER_BYTES:
                self._drain(series)
        elif self._enabled:
            series.unlogged.extend((self._clock() - running.started, queued_s, rows))
        return prediction_id

    def failed(self, running: Running, error: RequestError, inputs: Columns, rows: int, *, twin: str = "") -> None:
        """Record what a version could not answer. ``twin`` as in ``answered``."""
        if isinstance(error, OverloadedError):
            self._metrics.shed.labels(running.loaded.name).inc()
        elif isinstance(error, DeadlineExceededError):
            self._metrics.expired.labels(running.loaded.name).inc()
        self.answered(running, inputs, None, rows, twin=twin, code=code_of(error))

    def cancelled(self, running: Running) -> None:
        """Count a request whose caller left."""
        self._metrics.cancelled.labels(running.loaded.name).inc()

    def refused(self, code: Code, *, model: str, protocol: str) -> None:
        """Count a request that no version took. ``model`` must be a served one or ``unknown``: labels are bounded."""
        self._metrics.requests.labels(model, "none", "none", protocol, code.name).inc()

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
        self._clock_began_us = self._now_us() - 1e6 * self._clock()
        for (model, version), runs in self._runs.items():
            if runs and self._enabled:
                self._count_runs(model, version, runs)
            runs.clear()
        for series in self._series.values():
            self._drain(series)

    def _drain(self, series: Series) -> None:
        unlogged, facts = series.unlogged, None
        if unlogged:
            series.unlogged = array("d")
            facts = np.array(unlogged).reshape(-1, len(FACTS) - _COUNTED)
        if len(series.gathered):
            logged = series.gathered.facts()[:, _COUNTED:]
            facts = logged if facts is None else np.concatenate([facts, logged])
            self._sink(series, series.take())
        if facts is not None and self._enabled:
            self._count(series, facts)

    def _count(self, series: Series, facts: NDArray[np.float64]) -> None:
        model, version = series.model, str(series.version)
        total_s, queued_s, rows = facts.T
        metrics = self._metrics
        metrics.requests.labels(model, version, series.arm, series.protocol, series.code).inc(len(facts))
        metrics.latency.labels(model, version, series.arm, series.protocol).observe_many(total_s)
        if series.arm is not Arm.SHADOW:  # a copy is no caller's, and these cannot tell the arms apart
            metrics.request_rows.labels(model).observe_many(rows)
            metrics.queue.labels(model, version).observe_many(queued_s)
        statistics = self._statistics.setdefault((model, series.version), Statistics())
        statistics.last_us = self._now_us()
        statistics.queued_s += float(queued_s.sum())
        if series.code == OK_CODE.name:
            statistics.answered += len(facts)
            statistics.answered_s += float(total_s.sum())
            statistics.answered_rows += int(rows.sum())
        else:
            statistics.failed += len(facts)
            statistics.failed_s += float(total_s.sum())

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
