"""``driftwheel models show|compare``: what a version is, and whether another is better."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from driftwheel.commands.common import ANSWER, PEOPLE, Json, ModelName, answer_json, resolved
from driftwheel.commands.model_moves import VersionName

if TYPE_CHECKING:
    from driftwheel.wheel.comparing import Comparison

COMPARE_CODES = {"better": 0, "no difference shown": 10, "worse": 11}


def show(ctx: typer.Context, model: ModelName, version: VersionName = "champion", *, as_json: Json = False) -> None:
    """What a version is: state, description, lineage to its run and its data, parameters, metrics, files."""
    from driftwheel.wheel.comparing import find_version
    from driftwheel.wheel.inventory import describe

    settings = resolved(ctx)
    facts = describe(settings, model, find_version(settings, model, version))
    if as_json:
        answer_json(facts)
        return
    table = Table("what", "value", title=f"{model} version {facts['version']}")
    for name, value in facts.items():
        if isinstance(value, dict):
            for inner, one in value.items():
                table.add_row(f"{name}: {inner}", f"{one:.6g}" if isinstance(one, float) else str(one))
        elif name not in ("model", "version"):
            table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    ANSWER.print(table)


def compare(
    ctx: typer.Context,
    model: ModelName,
    a: Annotated[str, typer.Argument(metavar="A", help="A number, champion, challenger or an alias.")] = "champion",
    b: Annotated[str, typer.Argument(metavar="B", help="The one to hold against it.")] = "challenger",
    *,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 1000,
    as_json: Json = False,
) -> None:
    """Compare two versions on rows that neither has learned from: metrics, differences and 95 % intervals.

    The rows are the test split of the version with the newer data. Intervals are of the paired bootstrap, over users where
    there are users. If either is trained to rank, both are judged by their lists for the users of those rows. Ends with
    code 0 if B is better by the metric of the gate, 10 if no difference shows, 11 if it is worse.
    """
    from dataclasses import asdict

    from driftwheel.wheel.comparing import compare as run
    from driftwheel.wheel.comparing import find_version
    from driftwheel.wheel.progress import SILENT, reporter_for

    settings = resolved(ctx)
    first, second = (find_version(settings, model, version) for version in (a, b))
    with (SILENT if as_json else reporter_for(PEOPLE)).task(f"Comparing versions {first} and {second}") as task:
        result = run(settings, model, first, second, task, resamples=resamples)
        task.finish(f"{result.rows:,} rows, {resamples} resamples")
    if as_json:
        answer_json(asdict(result))
    else:
        _print(result)
    raise typer.Exit(COMPARE_CODES[result.verdict])


def _print(result: "Comparison") -> None:
    names = ("metric", str(result.a), str(result.b), f"{result.b} - {result.a}", "95 % interval", "better")
    table = Table(*(Column(name, no_wrap=True) for name in names), title=f"{result.model}, by version")
    better = {"a": str(result.a), "b": str(result.b), None: ""}
    for one in result.differences:
        interval = "" if one.low is None else f"{one.low:+.4f} to {one.high:+.4f}"
        table.add_row(one.metric, f"{one.a:.4f}", f"{one.b:.4f}", f"{one.delta:+.4f}", interval, better[one.better])
    ANSWER.print(table)
    drawn = f"{result.clusters:,} users drawn" if result.clusters else "rows drawn"
    ranked = result.judged_by == "rankings"
    rows = "high ratings among the test rows" if ranked else "test rows"
    why = ", or of users it does not know" if ranked else ""
    left_out = f", {result.left_out:,} left out that the other has learned from{why}" if result.left_out else ""
    ANSWER.print(
        f"{result.rows:,} {rows} of version {result.data_of}{left_out}; {drawn} {result.resamples:,} times\n"
        f"version {result.b} beside version {result.a}, by {result.metric}: {result.verdict}",
        highlight=False,
    )
