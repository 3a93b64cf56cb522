"""What a handler counts, told to TorchServe at most once a second."""

import logging
import threading
from typing import Any

NAMES = {
    "batches": ("DriftwheelBatches", "count"),
    "rows": ("DriftwheelRows", "count"),
    "run_ms": ("DriftwheelRunMilliseconds", "ms"),
    "refused": ("DriftwheelRefused", "count"),
}
"""The counters and their units, as ``driftwheel_metrics.yaml`` declares them."""

_INTERVAL_S = 1.0


class Counts:
    """Adds up, and tells. A metric goes to TorchServe as a line of log; one for each batch, with the ids of all its requests,
    would cost more than the batch.

    Args:
        metrics: TorchServe's ``context.metrics``.
    """

    def __init__(self, metrics: Any, model: str, version: str) -> None:
        self._dimensions = [model, version]
        self._metrics = {key: _counter(metrics, name, unit) for key, (name, unit) in NAMES.items()}
        self._lock = threading.Lock()
        self._waiting: dict[str, float] = {}
        self._timer: threading.Timer | None = None

    def add(self, **values: float) -> None:
        """Add to counters by key; they are told within a second."""
        with self._lock:
            for key, value in values.items():
                self._waiting[key] = self._waiting.get(key, 0) + value
            if self._timer is None:
                self._timer = threading.Timer(_INTERVAL_S, self._tell)
                self._timer.daemon = True
                self._timer.start()

    def _tell(self) -> None:
        with self._lock:
            waiting, self._waiting, self._timer = self._waiting, {}, None
        for key, value in waiting.items():
            if value:
                self._metrics[key].add_or_update(round(value, 3), self._dimensions)


def _counter(metrics: Any, name: str, unit: str) -> Any:
    """A counter as the metrics YAML declares it; where that is another one than ours, the frontend will pass over it."""
    from ts.metrics.metric_cache_errors import MetricsCacheKeyError
    from ts.metrics.metric_type_enum import MetricTypes

    try:
        return metrics.get_metric(name, MetricTypes.COUNTER)
    except MetricsCacheKeyError:
        return metrics.add_metric_to_cache(name, unit, ["ModelName", "ModelVersion"], MetricTypes.COUNTER)


def quieten() -> None:
    """Keep what TorchServe logs for each batch off its pipe to the frontend; warnings, errors and our metrics stay."""
    logging.getLogger().setLevel(logging.WARNING)
    metrics = logging.getLogger("ts.metrics.caching_metric")
    metrics.setLevel(logging.INFO)
    metrics.addFilter(_is_ours)
    # A refused request is its client's affair, and no error of ours with a traceback.
    logging.getLogger("ts.service").addFilter(_is_no_refusal)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or record.getMessage().startswith("[METRICS]Driftwheel")


def _is_no_refusal(record: logging.LogRecord) -> bool:
    return record.getMessage() != "Prediction error"
