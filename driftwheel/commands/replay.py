"""``driftwheel replay``: recorded rows as traffic."""

from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import PEOPLE, Json, ModelName, answer_json, resolved
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources


@with_sources
def replay(
    ctx: typer.Context,
    model: ModelName,
    *,
    target: Annotated[str | None, typer.Option(help="host:port. Default: the server of this home.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Ratings from this moment on (ISO 8601). Default: the newest 20 %.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="At most so many. Default: all.")] = None,
    rows_per_s: Annotated[
        float | None, typer.Option(min=0.01, help="At most so many a second. Default: as fast as they are answered.")
    ] = None,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Send recorded rows to a running server over gRPC, in time order, and what really happened as feedback.

    Ends with code 1 if a call failed.
    """
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.replay import replay_source

    reporter = SILENT if as_json else reporter_for(PEOPLE)
    report = replay_source(
        resolved(ctx), sources, model, reporter, target=target, since=since, limit=rows, rows_per_s=rows_per_s
    )
    if as_json:
        answer_json(
            {
                "sent": report.sent,
                "labelled": report.labelled,
                "failed": dict(report.failed),
                "by_arm": dict(report.by_arm),
                "by_version": dict(report.by_version),
            }
        )
    if report.failed:
        raise typer.Exit(1)
