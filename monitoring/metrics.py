"""Every metric that the server exposes, declared once.

Labels are bounded: model, version and arm come from rollouts, protocol and code from our own tables. Never a user or item.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003,
    0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""A small model answers in tens of microseconds."""

AGE_BUCKETS_S = (
    60,
    900,
    3600,
    6 * 3600,
    12 * 3600,
    86_400,
    2 * 86_400,
    3 * 86_400,
    7 * 86_400,
    14 * 86_400,
    30 * 86_400,
)
"""Features are built each night, or each week."""

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)

DELTA_BUCKETS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SHARE_BUCKETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class HistogramChild:
    """The counts of one combination of labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self.sum = 0.0

    def observe_many(self, values: ArrayLike) -> None:
        """Count values ``[n]``."""
        observed = np.asarray(values, dtype=np.float64)
        self._counts += np.bincount(self._bounds.searchsorted(observed), minlength=len(self._counts))
        self.sum += float(observed.sum())

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format has them."""
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, np.cumsum(self._counts).astype(float).tolist(), strict=True))


class Histogram(Collector):
    """A Prometheus histogram that takes many values at a time: an observation of its own for each would cost a request more
    than its answer's encoding does.

    Args:
        buckets: Upper bounds, ascending.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = buckets
        self._children: dict[tuple[str, ...], HistogramChild] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramChild:
        """The child of these label values, made on first use."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}, got {values}")
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = HistogramChild(self._bounds)
        return child

    def remove(self, *values: str) -> None:
        """Forget a child; nothing to do where there is none."""
        self._children.pop(values, None)

    def children(self) -> list[tuple[dict[str, str], HistogramChild]]:
        """Every child with its labels."""
        return [(dict(zip(self._labels, values, strict=True)), child) for values, child in self._children.items()]

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The family without children, which is all that registration wants to know."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, child.buckets(), child.sum)
        yield family


class ServingMetrics:
    """The server's metrics in one registry.

    Args:
        registry: Where they are registered; a test passes its own.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "driftwheel_requests",
            "Requests by what answered them and how they ended.",
            ["model", "version", "arm", "protocol", "code"],
            registry=registry,
        )
        self.latency = Histogram(
            "driftwheel_request_duration_seconds",
            "From the request's body being read to its answer being ready.",
            ["model", "version", "arm", "protocol"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.queue = Histogram(
            "driftwheel_queue_duration_seconds",
            "From a request's submission to the start of the run that answered it.",
            ["model", "version"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.compute = Histogram(
            "driftwheel_compute_duration_seconds",
            "Of one run of the graph.",
            ["model", "version"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.request_rows = Histogram(
            "driftwheel_request_rows",
            "Rows of one request.",
            ["model"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.run_rows = Histogram(
            "driftwheel_run_rows",
            "Rows of one run of the graph, after batching.",
            ["model", "version"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.shed = Counter(
            "driftwheel_shed_requests", "Requests refused because too much was waiting.", ["model"], registry=registry
        )
        self.expired = Counter(
            "driftwheel_expired_requests",
            "Requests whose deadline passed before they ran.",
            ["model"],
            registry=registry,
        )
        self.cancelled = Counter(
            "driftwheel_cancelled_requests", "Requests whose caller left before they ran.", ["model"], registry=registry
        )
        self.queued_rows = Gauge(
            "driftwheel_queued_rows", "Rows that wait for a run.", ["model", "version"], registry=registry
        )
        self.tasks = Gauge("driftwheel_event_loop_tasks", "Tasks of the server's event loop.", registry=registry)
        self.in_flight = Gauge("driftwheel_requests_in_flight", "Requests being answered.", registry=registry)
        self.logged_rows = Counter(
            "driftwheel_prediction_log_rows", "Rows written to the prediction log.", ["model"], registry=registry
        )
        self.dropped_rows = Counter(
            "driftwheel_prediction_log_dropped_rows", "Rows that the full log let go.", ["model"], registry=registry
        )
        self.feedback = Counter("driftwheel_feedback", "Labels accepted, and on disk.", ["model"], registry=registry)
        self.loaded = Gauge(
            "driftwheel_model_version_loaded",
            "1 for every version that can answer.",
            ["model", "version", "arm"],
            registry=registry,
        )
        self.model = Info("driftwheel_model", "What a loaded version is.", ["model", "version"], registry=registry)
        self.candidate_weight = Gauge(
            "driftwheel_candidate_weight", "The candidate's share of traffic.", ["model"], registry=registry
        )
        self.shadow_delta = Histogram(
            "driftwheel_shadow_score_delta",
            "How far a candidate's scores of copied rows are from stable's, up or down.",
            ["model", "version"],
            buckets=DELTA_BUCKETS,
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "driftwheel_shadow_list_overlap",
            "The share of items that a candidate's recommendation has in common with stable's.",
            ["model", "version"],
            buckets=SHARE_BUCKETS,
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "driftwheel_shadow_dropped_requests",
            "Requests that were not copied to the candidate, for want of room.",
            ["model"],
            registry=registry,
        )
        self.load_failures = Counter(
            "driftwheel_bundle_load_failures", "Bundles that were refused.", ["model"], registry=registry
        )
        self.feature_customers = Counter(
            "driftwheel_feature_customers",
            "Customers that requests only named, by whether the feature store knew them (fresh, stale, unknown).",
            ["freshness"],
            registry=registry,
        )
        self.feature_missing = Counter(
            "driftwheel_feature_missing_values",
            "Values that the feature store lacked of customers that it knew.",
            ["feature"],
            registry=registry,
        )
        self.feature_failures = Counter(
            "driftwheel_feature_failures",
            "Requests that the feature store did not answer (timeout, error).",
            ["reason"],
            registry=registry,
        )
        self.feature_fetch = Histogram(
            "driftwheel_feature_fetch_duration_seconds",
            "Of one request's question to the feature store, its wait for a thread included.",
            [],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.feature_age = Histogram(
            "driftwheel_feature_age_seconds",
            "How old the features of customers were when a request looked them up.",
            [],
            buckets=AGE_BUCKETS_S,
            registry=registry,
        )
        self.ready = Gauge("driftwheel_ready", "1 while the server takes traffic.", registry=registry)
        self.build = Info("driftwheel_build", "What is running.", registry=registry)

    def forget(self, model: str, version: str) -> None:
        """Remove every child that bears a version which has been retired."""
        for histogram in (
            self.latency,
            self.queue,
            self.compute,
            self.run_rows,
            self.shadow_delta,
            self.shadow_overlap,
        ):
            for labels, _ in histogram.children():
                if labels["model"] == model and labels["version"] == version:
                    histogram.remove(*labels.values())
        for metric in (self.requests, self.loaded, self.queued_rows, self.model):
            metric.remove_by_labels({"model": model, "version": version})
