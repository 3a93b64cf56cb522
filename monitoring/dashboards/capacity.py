"""Capacity: what runs, what waits, and what it takes."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.alerts.contracts import SERVER
from monitoring.dashboards.parts import RATE, Query, S, graph, page, per_second


def _mean(histogram: str) -> str:
    of, count = f"sum by (model) (rate(driftwheel_{histogram}", f"{{{S}}}{RATE}))"
    return f"{of}_sum{count} / ({of}_count{count} > 0)"


def _feature_rate(counter: str, label: str) -> str:
    return f"sum by ({label}) (rate(driftwheel_feature_{counter}_total{{{SERVER}}}{RATE}))"


def _feature_quantile(quantile: float, histogram: str) -> Query:
    buckets = f"sum by (le) (rate(driftwheel_feature_{histogram}_seconds_bucket{{{SERVER}}}{RATE}))"
    return Query(f"histogram_quantile({quantile}, {buckets})", f"p{quantile * 100:.0f}")


def dashboard() -> Dashboard:
    return page(
        "driftwheel-capacity",
        "capacity",
        "How full the server is.",
        ("DriftwheelShedding", "DriftwheelQueueSlow", "DriftwheelWorkersDown", "DriftwheelLogDropping",
         "DriftwheelFilesRunningOut", "DriftwheelFeatureStoreFailing", "DriftwheelFeaturesStale"),
        [
            (
                "Load",
                [
                    graph("Requests in flight", "short", Query(f"driftwheel_requests_in_flight{{{SERVER}}}", "{{instance}}")),
                    graph("Rows that wait", "short", Query(f"driftwheel_queued_rows{{{S}}}", "{{model}} {{version}}")),
                    graph("Rows of requests", "short", Query(per_second("request_rows_sum"), "{{model}}"), about="Each second."),
                    graph(
                        "Rows of a request and of a run",
                        "short",
                        Query(_mean("request_rows"), "{{model}} request"),
                        Query(_mean("run_rows"), "{{model}} run"),
                        about="Means. Runs have more where requests were batched.",
                    ),
                    graph("Share of time in runs", "percentunit", Query(per_second("compute_duration_seconds_sum"), "{{model}}")),
                    graph("Tasks of the event loop", "short", Query(f"driftwheel_event_loop_tasks{{{SERVER}}}", "{{instance}}")),
                ],
            ),
            (
                "Processes",
                [
                    graph("CPU", "short", Query(f"rate(process_cpu_seconds_total{{{SERVER}}}{RATE})", "{{instance}}"), about="Cores."),
                    graph("Memory", "bytes", Query(f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}}")),
                    graph(
                        "Workers",
                        "short",
                        Query(f"driftwheel_workers{{{SERVER}}}", "{{instance}} wanted"),
                        Query(f"driftwheel_workers_up{{{SERVER}}}", "{{instance}} up"),
                        Query(f"driftwheel_worker_restarts_total{{{SERVER}}}", "{{instance}} restarts"),
                    ),
                    graph("Open files", "percentunit", Query(f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}}", "{{instance}}")),
                ],
            ),
            (
                "Prediction log",
                [
                    graph("Rows written", "short", Query(per_second("prediction_log_rows_total"), "{{model}}"), about="Each second."),
                    graph("Rows dropped", "short", Query(per_second("prediction_log_dropped_rows_total"), "{{model}}"), about="Each second."),
                ],
            ),
            (
                "Features of customers that requests only name",
                [
                    graph("Age", "s", _feature_quantile(0.5, "age"), _feature_quantile(0.99, "age"), about="When they were looked up."),
                    graph("Customers", "short", Query(_feature_rate("customers", "freshness"), "{{freshness}}"), about="Each second.", stacked=True),
                    graph("Missing values", "short", Query(_feature_rate("missing_values", "feature"), "{{feature}}"), about="Each second."),
                    graph("Store failures", "reqps", Query(_feature_rate("failures", "reason"), "{{reason}}")),
                    graph("Store latency", "s", _feature_quantile(0.5, "fetch_duration"), _feature_quantile(0.99, "fetch_duration")),
                ],
            ),
        ],
    )  # fmt: skip
