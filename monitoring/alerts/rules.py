"""All rules as one file for Prometheus; ``python -m monitoring.alerts.rules`` writes it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driftwheel.files import write_atomically
from monitoring.alerts import objectives, service, wheel
from monitoring.alerts.contracts import SERVER, TRAFFIC, Alert, Recording

RULES = Path(__file__).with_name("rules.yaml")

_HEADER = "# Written by `python -m monitoring.alerts.rules`; the sources lie beside it.\n"


def recordings() -> Iterator[Recording]:
    """What alerts and dashboards share beside the objectives: latencies by model, and each arm's errors."""
    for name, metric in (("request", "request_duration"), ("queue", "queue_duration"), ("compute", "compute_duration")):
        # The others have no arm, and count no copies.
        buckets = f"driftwheel_{metric}_seconds_bucket{{{TRAFFIC}}}"
        for quantile in (50, 99):
            yield Recording(
                record=f"model:driftwheel_{name}_seconds:p{quantile}_5m",
                expr=f"histogram_quantile({quantile / 100}, sum by (model, le) (rate({buckets}[5m])))",
            )
    rate = "model_arm:driftwheel_requests:rate10m"
    faults = f'driftwheel_requests_total{{{SERVER},code=~"{objectives.FAULTS}"}}'
    yield Recording(record=rate, expr=f"sum by (model, arm) (rate(driftwheel_requests_total{{{SERVER}}}[10m]))")
    yield Recording(
        record="model_arm:driftwheel_errors:ratio10m",
        expr=f"(sum by (model, arm) (rate({faults}[10m])) or 0 * {rate}) / ({rate} > 0)",
    )
    # Half of the traffic of a candidate at 50% is control's, and none is left for the arm called stable.
    both = 'arm=~"stable|control"'
    yield Recording(
        record="model:driftwheel_errors_in_service:ratio10m",
        expr=f"sum by (model) (model_arm:driftwheel_errors:ratio10m{{{both}}} * {rate}{{{both}}})"
        f" / (sum by (model) ({rate}{{{both}}}) > 0)",
    )


def alerts() -> list[Alert]:
    """Every alert, in the file's order."""
    return [*objectives.alerts(), *service.ALERTS, *wheel.ALERTS]


def rule_groups() -> dict[str, Any]:
    """The content of the rules file."""
    groups = {
        "driftwheel-recordings": [one.rule() for one in (*objectives.recordings(), *recordings())],
        "driftwheel-objectives": [one.rule() for one in objectives.alerts()],
        "driftwheel-service": [one.rule() for one in service.ALERTS],
        "driftwheel-wheel": [one.rule() for one in wheel.ALERTS],
    }
    return {"groups": [{"name": name, "rules": rules} for name, rules in groups.items()]}


def rules_yaml() -> str:
    """The rules file."""
    import yaml

    return _HEADER + yaml.safe_dump(rule_groups(), sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else RULES
    write_atomically(target, rules_yaml().encode())
