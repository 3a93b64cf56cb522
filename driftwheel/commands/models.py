"""``driftwheel models``: what there is, what serves, and what is to."""

from typing import Annotated

import typer
from rich.table import Table

from driftwheel.commands import model_facts, model_moves
from driftwheel.commands.common import ANSWER, Json, answer_json, resolved

app = typer.Typer(
    help="Versions: what they are, how they compare, and which one is champion.\n\n"
    "A version is named by its number, by [bold]champion[/] (in service) or [bold]challenger[/] (on trial), or by an alias "
    "in MLflow. The rollout file says what serves; MLflow's aliases follow it, and the ledger says who moved what, and why.",
    no_args_is_help=True,
)
app.command("show")(model_facts.show)
app.command("compare")(model_facts.compare)
app.command("promote")(model_moves.promote)
app.command("rollback")(model_moves.rollback)
app.command("archive")(model_moves.archive)
app.command("restore")(model_moves.restore)


@app.command("list")
def list_(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="One model. Default: all.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Every version, with its metrics and whether it is in service."""
    from driftwheel.wheel.inventory import inventory

    rows = inventory(resolved(ctx), model)
    if as_json:
        answer_json(rows)
        return
    table = Table("model", "version", "state", "metrics", "data until", "run")
    for row in rows:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
        cells = (row["model"], row["version"], row["state"], metrics, row["data_until"] or "", row["run_id"][:8])
        table.add_row(*(str(cell) for cell in cells))
    ANSWER.print(table)


@app.command()
def verify(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Check every file of every bundle against its sum; ends with code 4 if one is damaged."""
    from driftwheel.bundle import list_models, list_versions, read_bundle
    from driftwheel.errors import BundleError

    settings = resolved(ctx)
    checked, damaged = 0, list[str]()
    for name in list_models(settings.models):
        for version in list_versions(settings.models, name):
            try:
                read_bundle(settings.models, name, version)
            except BundleError as error:
                damaged.append(error.message)
            checked += 1
    if as_json:
        answer_json({"checked": checked, "damaged": damaged})
    else:
        ANSWER.print(f"{checked} bundles checked, {len(damaged)} damaged", *damaged, sep="\n  ", highlight=False)
    if damaged:
        raise typer.Exit(4)
