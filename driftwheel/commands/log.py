"""``driftwheel log``: what the server was asked, what it answered, and what it was told."""

from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from driftwheel.commands.common import ANSWER, PEOPLE, Json, answer_json, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from driftwheel.log_segments import Segment

app = typer.Typer(help="Ask the prediction log with SQL, and see what it holds.", no_args_is_help=True)


@app.command()
def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT, as DuckDB understands it.")],
    *,
    model: Annotated[str | None, typer.Option(help="Only this model's rows. Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 100,
    as_json: Json = False,
) -> None:
    """Run a query over the log as it is now, sealed or not.

    Views: predictions (model, version, prediction_id, row, at, arm, kind, code, latency_us, in_..., out_...), shadow (the
    same of candidates in shadow), feedback (prediction_id, row, at, label, model); at is a word of SQL's own: write
    predictions.at. A query reads the log and no other file.

    Example: driftwheel log query "SELECT arm, count(*) FROM predictions GROUP BY arm"
    """
    from monitoring.log_query import query_log

    found = query_log(resolved(ctx).prediction_log, sql, model=model, limit=limit)
    if as_json:
        rows = [[_plain(value) for value in row] for row in found.rows]
        answer_json({"columns": found.columns, "rows": rows, "more": found.more})
        return
    table = Table(*found.columns)
    for row in found.rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    ANSWER.print(table)
    if found.more:
        PEOPLE.print(f"There are more rows than {limit}: --limit shows more.", highlight=False)


@app.command()
def status(ctx: typer.Context, *, as_json: Json = False) -> None:
    """How many segments there are of each version, how large they are, and from when to when."""
    from driftwheel.log_segments import list_segments

    groups: dict[str, list[Segment]] = {}
    for one in list_segments(resolved(ctx).prediction_log):
        what = "feedback" if one.model is None else f"{one.model} {one.version}{' in shadow' if one.in_shadow else ''}"
        groups.setdefault(what, []).append(one)
    facts = [_facts(what, segments) for what, segments in sorted(groups.items())]
    if as_json:
        answer_json(facts)
        return
    table = Table("what", "sealed", "not sealed", "MiB", "from (UTC)", "to (UTC)")
    for one in facts:
        size = f"{one['bytes'] / 2**20:,.1f}"
        times = (one[name][:19].replace("T", " ") for name in ("from", "to"))
        table.add_row(one["what"], str(one["sealed"]), str(one["not_sealed"]), size, *times)
    ANSWER.print(table)


def _facts(what: str, segments: "Sequence[Segment]") -> dict[str, Any]:
    from driftwheel.log_layout import SEALED_SUFFIX

    sealed = sum(one.path.suffix == SEALED_SUFFIX for one in segments)
    return {
        "what": what,
        "sealed": sealed,
        "not_sealed": len(segments) - sealed,
        "bytes": sum(one.bytes for one in segments),
        "from": _moment(min(one.began_s for one in segments)),
        "to": _moment(max(one.ended_s for one in segments)),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _plain(value: Any) -> Any:
    """As JSON has it: a number that is none is null there."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not isfinite(value) else value
