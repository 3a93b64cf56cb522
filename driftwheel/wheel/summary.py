"""What a turn did, as a table for people and as JSON for scripts."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from driftwheel.settings import Settings
from driftwheel.wheel.turn import ModelReport, TurnReport
from training.mlflow_store import shown_uri

_HEADLINES = ("rmse", "mae", "ndcg_at_10", "auc", "log_loss")


def print_summary(console: Console, settings: Settings, report: TurnReport, *, serving_on: bool) -> None:
    """The table, and where to look."""
    table = Table(title=f"One turn of the wheel, {report.seconds:.0f} s", title_justify="left", show_lines=True)
    table.add_column("")
    for model in report.models:
        table.add_column(model.model, overflow="fold", ratio=1)
    for title, cell in (
        ("version", _versions),
        ("test metrics", lambda m: _metrics(m, "\n")),
        ("newest gate", lambda m: m.gate),
        ("traffic", lambda m: str(m.traffic)),
        ("drift", lambda m: m.drift),
        ("retrain", lambda m: m.retrain),
        ("last verdict", lambda m: m.verdict),
    ):
        table.add_row(title, *(cell(model) for model in report.models))
    console.print(table)
    _print_where_to_look(console, settings, report, serving_on=serving_on)


def _versions(model: ModelReport) -> str:
    if model.in_service == model.started_with:
        return f"{model.in_service} in service"
    return f"{model.started_with} -> {model.in_service} in service"


def _metrics(model: ModelReport, separator: str) -> str:
    return separator.join(f"{name} {model.metrics[name]:.4f}" for name in _HEADLINES if name in model.metrics)


def _print_where_to_look(console: Console, settings: Settings, report: TurnReport, *, serving_on: bool) -> None:
    home = "" if settings.home == Path(".driftwheel").absolute() else f" --home {shlex.quote(str(settings.home))}"
    program = shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "driftwheel" else "driftwheel"
    places: list[tuple[str, object]] = []
    if serving_on:
        places.append(("server", f"{report.address.url}  (gRPC and HTTP on one port; /metrics, /v2, /v1)"))
        places.append(("console", f"{report.address.url}/console"))
        for user in [model.known_user for model in report.models if model.known_user is not None]:
            body = json.dumps({"user_id": user, "k": 5})
            places.append(("ask it", f"curl {report.address.url}/v1/recommend -d {shlex.quote(body)}"))
    places += [(f"{model.model} drift", model.drift_report) for model in report.models if model.drift_report]
    places.append(("what was decided", f"{program}{home} ledger"))
    places.append(("versions", f"{program}{home} models list"))
    local = settings.tracking.uri is None
    places.append(("runs", f"mlflow ui --backend-store-uri {shown_uri(settings)}" if local else shown_uri(settings)))
    for name, place in places:
        console.print(f"{name:<18}{place}", highlight=False, soft_wrap=True)


def summary_json(report: TurnReport) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "url": report.address.url,
        "cut": report.cut,
        "seconds": round(report.seconds, 1),
        "models": [
            {
                "model": model.model,
                "started_with": model.started_with,
                "in_service": model.in_service,
                "metrics": model.metrics,
                "calls": model.traffic.sent,
                "labels": model.traffic.labelled,
                "failed": dict(model.traffic.failed),
                "by_version": {str(version): count for version, count in model.traffic.by_version.items()},
                "drift": model.drift,
                "drift_report": str(model.drift_report) if model.drift_report else None,
                "retrain": model.retrain,
                "verdict": model.verdict,
            }
            for model in report.models
        ],
    }
