"""Alerts on the server, its workers, its log and the watcher."""

from monitoring.alerts.contracts import SERVER, WATCHER, Alert


def _rose(counter: str) -> str:
    """A counter that rose in the last 15 minutes, or began to count: without a value before, Prometheus sees no increase."""
    series = f"{counter}{{{SERVER}}}"
    return f"increase({series}[15m]) > 0 or ({series} > 0 unless {series} offset 15m)"


ALERTS = (
    Alert(
        name="DriftwheelServerDown",
        expr=f"up{{{SERVER}}} == 0",
        hold="2m",
        severity="page",
        summary="The server at {{ $labels.instance }} does not answer.",
    ),
    Alert(
        name="DriftwheelServerMissing",
        expr=f"absent(up{{{SERVER}}})",
        hold="5m",
        severity="page",
        summary="Prometheus knows of no server.",
    ),
    Alert(
        name="DriftwheelNotReady",
        expr=f"driftwheel_ready{{{SERVER}}} == 0",
        hold="5m",
        severity="page",
        summary="The server at {{ $labels.instance }} is up and takes no traffic.",
    ),
    Alert(
        name="DriftwheelBundleLoadFailed",
        expr=_rose("driftwheel_bundle_load_failures_total"),
        hold="0m",
        severity="ticket",
        summary="The server refused a bundle of {{ $labels.model }}; the version before it goes on.",
    ),
    Alert(
        name="DriftwheelShedding",
        expr=f"sum by (model) (rate(driftwheel_shed_requests_total{{{SERVER}}}[5m])) > 0.01 * model:driftwheel_requests:rate5m",
        hold="5m",
        severity="page",
        summary="{{ $labels.model }}: over 1% of requests are refused because too much waits.",
    ),
    Alert(
        name="DriftwheelQueueSlow",
        expr="model:driftwheel_queue_seconds:p99_5m > 0.05 and model:driftwheel_requests:rate5m * 300 >= 100",
        hold="10m",
        severity="ticket",
        summary="{{ $labels.model }}: requests wait {{ $value | humanizeDuration }} for a run (p99).",
    ),
    Alert(
        name="DriftwheelWorkersDown",
        expr=f"driftwheel_workers_up{{{SERVER}}} < driftwheel_workers{{{SERVER}}}",
        hold="5m",
        severity="ticket",
        summary="Only {{ $value }} workers of {{ $labels.instance }} answer.",
    ),
    Alert(
        name="DriftwheelWorkersRestarting",
        expr=f"increase(driftwheel_worker_restarts_total{{{SERVER}}}[30m]) > 2",
        hold="0m",
        severity="ticket",
        summary="Workers of {{ $labels.instance }} die again and again.",
    ),
    Alert(
        name="DriftwheelLogDropping",
        expr=_rose("driftwheel_prediction_log_dropped_rows_total"),
        hold="0m",
        severity="ticket",
        summary="The log lets rows of {{ $labels.model }} go: drift and judge see less than there is.",
    ),
    Alert(
        name="DriftwheelFeatureStoreFailing",
        expr=f"sum by (instance) (increase(driftwheel_feature_failures_total{{{SERVER}}}[10m])) > 5",
        hold="5m",
        severity="page",
        summary="{{ $labels.instance }} gets no features: who only names a customer is answered with 503.",
    ),
    Alert(
        name="DriftwheelFeaturesStale",
        expr=f'sum by (instance) (rate(driftwheel_feature_customers_total{{{SERVER},freshness="stale"}}[30m]))'
        f" / sum by (instance) (rate(driftwheel_feature_customers_total{{{SERVER}}}[30m])) > 0.05",
        hold="15m",
        severity="ticket",
        summary="{{ $value | humanizePercentage }} of the customers that {{ $labels.instance }} looks up have stale features.",
    ),
    Alert(
        name="DriftwheelFilesRunningOut",
        expr=f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}} > 0.8",
        hold="10m",
        severity="ticket",
        summary="{{ $labels.instance }} has {{ $value | humanizePercentage }} of its files open.",
    ),
    Alert(
        name="DriftwheelWatcherDown",
        expr=f"up{{{WATCHER}}} == 0 or absent(up{{{WATCHER}}})",
        hold="10m",
        severity="ticket",
        summary="Nobody tells of drift, quality and retrains: the watcher does not answer.",
    ),
)
