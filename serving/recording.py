"""What is kept of every request: its metrics, and its rows in the prediction log."""

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from driftwheel.contracts import Arm
from driftwheel.errors import RequestError
from driftwheel.preprocessing import Tensors
from monitoring.metrics import ServingMetrics
from serving.codes import OK_CODE, Code, code_of
from serving.engine import LoadedVersion
from serving.prediction_log import Logged, PredictionLog


@dataclass(frozen=True, slots=True)
class _Children:
    """The metrics of one combination of labels: looking them up by label each time costs more than counting."""

    requests: Counter
    latency: Histogram
    rows: Histogram


@dataclass(frozen=True, slots=True)
class Running:
    """A request that a version has taken."""

    loaded: LoadedVersion
    arm: Arm
    protocol: str
    kind: str
    started: float
    """``time.perf_counter`` when its body had been read."""


class Recorder:
    """Counts and logs.

    Args:
        new_token: A new part of a prediction id for each call, unique over all processes and starts.
    """

    def __init__(
        self, log: PredictionLog, metrics: ServingMetrics, *, new_token: Callable[[], str] | None = None
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._new_token = new_token or _token_maker()
        self._children: dict[tuple[str, int, Arm, str, str], _Children] = {}

    def token(self) -> str:
        """A string that no other call returns."""
        return self._new_token()

    def answered(self, running: Running, inputs: Tensors, outputs: Tensors, rows: int) -> str:
        """Record an answer; its prediction id, which feedback will name."""
        return self._record(running, OK_CODE, inputs, outputs, rows)

    def failed(self, running: Running, error: RequestError, inputs: Tensors, rows: int) -> None:
        """Record what a version could not answer."""
        self._record(running, code_of(error), inputs, None, rows)

    def refused(self, code: Code, *, model: str, protocol: str) -> None:
        """Count a request that no version took. ``model`` must be a served one or ``unknown``: labels are bounded."""
        self._metrics.requests.labels(model, "none", "none", protocol, code.name).inc()

    def _record(self, running: Running, code: Code, inputs: Tensors, outputs: Tensors | None, rows: int) -> str:
        seconds = time.perf_counter() - running.started
        children = self._children_of(running, code)
        children.requests.inc()
        children.latency.observe(seconds)
        children.rows.observe(rows)
        manifest = running.loaded.bundle.manifest
        prediction_id = f"{manifest.name}.{manifest.version}.{self._new_token()}"
        if self._log.wants():
            logged = Logged(
                prediction_id=prediction_id,
                at_us=self._log.now_us(),
                arm=running.arm,
                kind=running.kind,
                code=code.name,
                latency_us=int(seconds * 1e6),
                rows=rows,
                inputs=inputs,
                outputs=outputs,
            )
            self._log.add(manifest.name, manifest.version, manifest.signature, logged)
        return prediction_id

    def _children_of(self, running: Running, code: Code) -> _Children:
        name, version = running.loaded.name, running.loaded.version
        key = (name, version, running.arm, running.protocol, code.name)
        children = self._children.get(key)
        if children is None:
            children = _Children(
                requests=self._metrics.requests.labels(name, version, running.arm, running.protocol, code.name),
                latency=self._metrics.latency.labels(name, version, running.arm),
                rows=self._metrics.request_rows.labels(name),
            )
            self._children[key] = children
        return children


def _token_maker() -> Callable[[], str]:
    prefix, counter = secrets.token_hex(6), itertools.count()
    return lambda: f"{prefix}{next(counter):x}"
