"""Every metric that the server exposes, declared once.

Labels are bounded: model, version and arm come from rollouts, protocol and code from our own tables. Never a user or item.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

LATENCY_BUCKETS_S = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""Sub-millisecond serving needs buckets from 0.25 ms."""

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)


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
            ["model", "version", "arm"],
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
        self.candidate_weight = Gauge(
            "driftwheel_candidate_weight", "The candidate's share of traffic.", ["model"], registry=registry
        )
        self.load_failures = Counter(
            "driftwheel_bundle_load_failures", "Bundles that were refused.", ["model"], registry=registry
        )
        self.ready = Gauge("driftwheel_ready", "1 while the server takes traffic.", registry=registry)
        self.build = Info("driftwheel_build", "What is running.", registry=registry)
