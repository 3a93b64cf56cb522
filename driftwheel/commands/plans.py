"""How ``train --dry-run`` and ``retrain --dry-run`` show a plan."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from driftwheel.commands.common import ANSWER, answer_json

if TYPE_CHECKING:
    from driftwheel.wheel.dry_run import TrainingPlan

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say what would be trained, on which data, and what would come of it. The table is prepared and stays.",
    ),
]


def show_plan(plan: "TrainingPlan", *, as_json: bool) -> None:
    """Print a plan as a table, or as JSON."""
    if as_json:
        answer_json(asdict(plan))
        return
    table = Table("what", "value", title=f"{plan.model}: nothing was trained")
    known = "registered already" if plan.registered else "the next one"
    lines = {
        "data": f"{plan.source}, until {plan.data_until}" if plan.data_until else plan.source,
        "rows": ", ".join(f"{split} {rows:,}" for split, rows in plan.rows.items()),
        "left out": ", ".join(f"{reason} {rows:,}" for reason, rows in plan.dropped.items()) or "none",
        "evaluated on": plan.fingerprint,
        "shipped from": plan.shipped_fingerprint,
        "parameters": ", ".join(f"{name} {value}" for name, value in plan.config.items()),
        "they come from": _origin(plan),
        "ranks and seed": f"{plan.ranks} processes, seed {plan.seed}",
        **{f"job, {what}": job for what, job in plan.jobs.items()},
        "MLflow run": plan.run_id or "a new one",
        "version": f"{plan.version}, {known}",
        "gate": f"beside version {plan.champion}" if plan.champion else "its bounds alone",
        "if it passes": plan.then,
    }
    for name, value in lines.items():
        table.add_row(name, value)
    ANSWER.print(table)


def _origin(plan: "TrainingPlan") -> str:
    found = ", ".join(f"{name} {value}" for name, value in plan.tuned.items()) if plan.tuned else "the defaults"
    return f"{found}; given: {', '.join(plan.given)}" if plan.given else found
