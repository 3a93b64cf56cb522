"""``driftwheel data``: prepare tables for training."""

from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import PEOPLE, Json, answer_json, resolved
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.contracts import Task
    from driftwheel.wheel.sources import Sources

app = typer.Typer(
    help="Prepare tables: clean, split, compute features and vocabularies, fingerprint.", no_args_is_help=True
)

Learn = Annotated[bool, typer.Option("--learn", help="Add what the prediction log has labels for.")]


@app.command()
@with_sources
def ratings(ctx: typer.Context, *, learn: Learn = False, as_json: Json = False, sources: "Sources") -> None:
    """Prepare ratings: temporal split, contiguous ids, user and item aggregates of the training split alone."""
    _prepare(ctx, sources, "rating", learn=learn, as_json=as_json)


@app.command()
@with_sources
def customers(ctx: typer.Context, *, learn: Learn = False, as_json: Json = False, sources: "Sources") -> None:
    """Prepare customers: stratified split, categories of the training split alone, missing values kept as such."""
    _prepare(ctx, sources, "churn", learn=learn, as_json=as_json)


def _prepare(ctx: typer.Context, sources: "Sources", task: "Task", *, learn: bool, as_json: bool) -> None:
    dataset = sources.prepare(task, resolved(ctx), until=sources.until, learn=learn)
    if as_json:
        answer_json(
            {
                "folder": dataset.folder,
                "fingerprint": dataset.fingerprint,
                "rows": dataset.rows,
                "dropped": dataset.dropped,
                "data_until": dataset.data_until,
            }
        )
        return
    split = ", ".join(f"{name} {rows:,}" for name, rows in dataset.rows.items())
    dropped = ", ".join(f"{rows:,} {reason}" for reason, rows in dataset.dropped.items() if rows) or "none"
    PEOPLE.print(f"{dataset.folder}\n  rows: {split}\n  left out: {dropped}", highlight=False)
    PEOPLE.print(f"  fingerprint: {dataset.fingerprint}", highlight=False)
