"""The service: rate, errors and duration by model, version, arm and protocol."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.dashboards.parts import RATE, Query, T, graph, number, page, per_second

_REQUESTS = f"driftwheel_requests_total{{{T}}}"
_DURATION = f"driftwheel_request_duration_seconds_bucket{{{T}}}"


def _rate(*labels: str) -> Query:
    by = ", ".join(labels)
    return Query(f"sum by ({by}) (rate({_REQUESTS}{RATE}))", " ".join(f"{{{{{label}}}}}" for label in labels))


def _quantile(share: float, *labels: str) -> Query:
    by = ", ".join((*labels, "le"))
    legend = " ".join((f"p{share * 100:g}", *(f"{{{{{label}}}}}" for label in labels)))
    return Query(f"histogram_quantile({share}, sum by ({by}) (rate({_DURATION}{RATE})))", legend)


def dashboard() -> Dashboard:
    return page(
        "driftwheel-service",
        "service",
        "Requests: how many, how many fail, how long they take.",
        ("DriftwheelErrorBudgetBurn", "DriftwheelLatencyBudgetBurn", "DriftwheelServerDown", "DriftwheelNotReady"),
        [
            (
                "Now",
                [
                    number("Requests", "reqps", Query(f"sum(rate({_REQUESTS}{RATE}))", "")),
                    number(
                        "Errors, 5 minutes",
                        "percentunit",
                        Query('model:driftwheel_errors:ratio5m{model=~"$model"}', "{{model}}"),
                    ),
                    number(
                        "p99, 5 minutes",
                        "s",
                        Query('model:driftwheel_request_seconds:p99_5m{model=~"$model"}', "{{model}}"),
                    ),
                    number("Ready", "short", Query('driftwheel_ready{job="driftwheel"}', "{{instance}}")),
                ],
            ),
            (
                "Rate",
                [
                    graph("By model and version", "reqps", _rate("model", "version"), stacked=True),
                    graph("By model and arm", "reqps", _rate("model", "arm"), stacked=True),
                    graph("By protocol", "reqps", _rate("protocol"), stacked=True),
                    graph("By code", "reqps", _rate("code"), stacked=True),
                ],
            ),
            (
                "Errors",
                [
                    graph(
                        "Share of faults",
                        "percentunit",
                        Query('model:driftwheel_errors:ratio5m{model=~"$model"}', "{{model}} 5m"),
                        Query('model:driftwheel_errors:ratio1h{model=~"$model"}', "{{model}} 1h"),
                        about="INTERNAL, NOT_FINITE, UNAVAILABLE, DEADLINE_EXCEEDED, and what was shed.",
                    ),
                    graph(
                        "Refused, expired, left",
                        "reqps",
                        Query(per_second("shed_requests_total"), "{{model}} shed"),
                        Query(
                            per_second("expired_requests_total"),
                            "{{model}} expired",
                        ),
                        Query(per_second("cancelled_requests_total"), "{{model}} left"),
                    ),
                ],
            ),
            (
                "Duration",
                [
                    graph("By model", "s", _quantile(0.5, "model"), _quantile(0.99, "model")),
                    graph("By version and arm, p99", "s", _quantile(0.99, "model", "version", "arm")),
                    graph("By protocol, p99", "s", _quantile(0.99, "protocol")),
                    graph(
                        "Queue and compute, p99",
                        "s",
                        Query('model:driftwheel_queue_seconds:p99_5m{model=~"$model"}', "{{model}} queue"),
                        Query('model:driftwheel_compute_seconds:p99_5m{model=~"$model"}', "{{model}} compute"),
                    ),
                ],
            ),
        ],
    )
