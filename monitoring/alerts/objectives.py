"""The service's objectives, and alerts on how fast their error budgets burn.

Multiwindow, multi-burn-rate alerts (The Site Reliability Workbook, chapter 5): the long window shows that it matters, the
short one that it still goes on. With little traffic a single failure burns a budget at any rate, so each wants a least
number of requests in its long window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from monitoring.alerts.contracts import SERVER, TRAFFIC, Alert, Recording, Severity

AVAILABILITY = 0.999
"""The share of requests that end without a fault of ours."""

LATENCY = 0.99
"""The share of requests that are answered within ``LATENCY_S``."""

LATENCY_S = 0.05
"""A bound of the histogram's buckets."""

FAULTS = "INTERNAL|NOT_FINITE|UNAVAILABLE|DEADLINE_EXCEEDED"
"""Codes that are ours to answer for. RESOURCE_EXHAUSTED is not among them, as a caller's body may be too large; requests
that were shed bear it too, and are counted by themselves."""

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@dataclass(frozen=True, slots=True)
class Burn:
    """One pair of windows: a budget of thirty days that burns ``factor`` times too fast."""

    factor: float
    long: str
    short: str
    hold: str
    severity: Severity
    least: int
    """Requests in the long window."""


BURNS = (
    Burn(14.4, "1h", "5m", "2m", "page", 500),
    Burn(6, "6h", "30m", "15m", "page", 1500),
    Burn(3, "1d", "2h", "1h", "ticket", 3000),
    Burn(1, "3d", "6h", "3h", "ticket", 9000),
)


def recordings() -> Iterator[Recording]:
    """Rates, and the shares of bad requests, by model and window."""
    for window in WINDOWS:
        total = f"sum by (model) (rate(driftwheel_requests_total{{{TRAFFIC}}}[{window}]))"
        faults = f'sum by (model) (rate(driftwheel_requests_total{{{TRAFFIC},code=~"{FAULTS}"}}[{window}]))'
        shed = f"sum by (model) (rate(driftwheel_shed_requests_total{{{SERVER}}}[{window}]))"
        base = f"model:driftwheel_requests:rate{window}"
        yield Recording(record=base, expr=total)
        yield Recording(
            record=f"model:driftwheel_errors:ratio{window}",
            expr=f"(({faults} or 0 * {base}) + ({shed} or 0 * {base})) / ({base} > 0)",
        )
        timed = "driftwheel_request_duration_seconds"
        fast = f'sum by (model) (rate({timed}_bucket{{{TRAFFIC},le="{LATENCY_S}"}}[{window}]))'
        all_ = f"sum by (model) (rate({timed}_count{{{TRAFFIC}}}[{window}]))"
        yield Recording(record=f"model:driftwheel_slow:ratio{window}", expr=f"1 - {fast} / ({all_} > 0)")


def alerts() -> Iterator[Alert]:
    """Four of each objective."""
    for name, what, ratio, objective in (
        ("DriftwheelErrorBudgetBurn", "errors", "model:driftwheel_errors:ratio", AVAILABILITY),
        (
            "DriftwheelLatencyBudgetBurn",
            f"answers over {LATENCY_S * 1000:.0f} ms",
            "model:driftwheel_slow:ratio",
            LATENCY,
        ),
    ):
        for burn in BURNS:
            bound = f"{burn.factor * (1 - objective):.4g}"
            enough = f"model:driftwheel_requests:rate{burn.long} * {_seconds(burn.long)} >= {burn.least}"
            yield Alert(
                name=name,
                expr=f"{ratio}{burn.long} > {bound} and {ratio}{burn.short} > {bound} and {enough}",
                hold=burn.hold,
                severity=burn.severity,
                summary=f"{{{{ $labels.model }}}}: {{{{ $value | humanizePercentage }}}} {what} in {burn.long}, "
                f"{burn.factor:g} times what the objective of {objective:.1%} allows.",
                labels={"window": burn.long},
            )


def _seconds(window: str) -> int:
    return int(window[:-1]) * {"m": 60, "h": 3600, "d": 86400}[window[-1]]
