"""``driftwheel features``: the feature repository, for training sets and for requests that name a customer only."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from driftwheel.commands.common import ANSWER, PEOPLE, Json, answer_json, check_moment, resolved
from driftwheel.commands.tables import with_sources
from driftwheel.errors import ConfigurationError

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources

app = typer.Typer(
    help="Features of customers, users and items in a Feast repository: build, bring online, join to training sets.\n\n"
    "First `build`, then `materialize`; a server with `features.serve` then answers for customers by their id.",
    no_args_is_help=True,
)


@app.command()
@with_sources
def build(
    ctx: typer.Context,
    *,
    at: Annotated[
        str | None, typer.Option(help="When the customers were as their table has them (ISO 8601). Default: now.")
    ] = None,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Write offline Parquet files from your tables and the prediction log's labels, and register what they hold.

    Customers get one more snapshot; users' and items' history is written anew. Old snapshots are deleted where
    features.keep_days or features.keep_mib says so.
    """
    from dataclasses import asdict

    from driftwheel.wheel import features

    if at is not None:
        check_moment("--at", at)
    built = features.build(resolved(ctx), sources, at=features.moment(at))
    if as_json:
        answer_json(asdict(built))
        return
    PEOPLE.print(f"customers: {built.customers:,}", highlight=False)
    PEOPLE.print(
        f"rows of users: {built.users:,}, of items: {built.items:,}, with {built.learned:,} labels of the log",
        highlight=False,
    )
    if built.expired:
        PEOPLE.print(f"snapshots deleted, oldest first: {built.expired:,}", highlight=False)


@app.command()
def apply(ctx: typer.Context) -> None:
    """Register the definitions again: after a change of features.max_age_s or of the online store."""
    from driftwheel.wheel import features

    features.apply(resolved(ctx))


@app.command()
def materialize(
    ctx: typer.Context,
    *,
    until: Annotated[str | None, typer.Option(help="Only what was known by then (ISO 8601). Default: now.")] = None,
) -> None:
    """Bring the newest features of every customer, user and item online."""
    from driftwheel.wheel import features

    if until is not None:
        check_moment("--until", until)
    features.materialize(resolved(ctx), until=features.moment(until))


@app.command()
@with_sources
def push(ctx: typer.Context, *, as_json: Json = False, sources: "Sources") -> None:
    """Count the prediction log's labels into users' and items' features, and bring those online at once."""
    from driftwheel.wheel import features

    pushed = features.push(resolved(ctx), sources)
    if as_json:
        answer_json(pushed)
        return
    PEOPLE.print(
        f"brought online: {pushed['users']:,} users, {pushed['items']:,} items, from {pushed['learned']:,} labels",
        highlight=False,
    )


@app.command()
def get(
    ctx: typer.Context,
    view: Annotated[str, typer.Argument(metavar="VIEW", help="customers, users or items.")],
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Whose features.")],
    *,
    as_json: Json = False,
) -> None:
    """Show what the online store has, with the moment from which it was known."""
    from driftwheel.wheel import features
    from training.features.definitions import KEYS

    if view not in KEYS:
        raise ConfigurationError(f"VIEW must be one of {', '.join(KEYS)}, got {view!r}")
    rows = features.get(resolved(ctx), view, ids)
    if as_json:
        answer_json(rows)
        return
    table = Table("feature", *ids)
    for name in [name for name in rows[0] if name != KEYS[view]]:
        table.add_row(name, *("" if row[name] is None else str(row[name]) for row in rows))
    ANSWER.print(table)


@app.command("training-set")
@with_sources
def training_set(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="churn or rating.")],
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The Parquet file to write.")],
    *,
    sources: "Sources",
) -> None:
    """Join labels with the features that were known at their time (point in time) and write them as Parquet.

    Train on customers with: driftwheel train churn --customers FILE --id-column customer_id
    """
    from driftwheel.files import replaced
    from driftwheel.wheel import features

    if task not in {"churn", "rating"}:
        raise ConfigurationError(f"TASK must be churn or rating, got {task!r}")
    if output.suffix != ".parquet":
        raise ConfigurationError(f"FILE must end in .parquet, got {output}")
    rows = features.training_set(resolved(ctx), sources, "rating" if task == "rating" else "churn")
    with replaced(output) as temporary:
        rows.to_parquet(temporary, index=False)
    PEOPLE.print(f"{output}: {len(rows):,} rows, {len(rows.columns)} columns", highlight=False, soft_wrap=True)
