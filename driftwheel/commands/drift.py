"""``driftwheel drift``: what the traffic has become."""

from typing import Annotated

import typer
from rich.table import Table

from driftwheel.commands.common import ANSWER, Json, ModelName, answer_json, check_moment, resolved
from driftwheel.commands.drift_watch import watch

app = typer.Typer(help="Compare live traffic with what the version in service was shipped with.", no_args_is_help=True)
app.command()(watch)


@app.command()
def run(
    ctx: typer.Context,
    model: ModelName,
    *,
    since: Annotated[str | None, typer.Option(help="Only rows from this moment on (ISO 8601).")] = None,
    window: Annotated[
        str | None, typer.Option(help="Your own table instead of the log: CSV or Parquet, a path, s3:// or gs://.")
    ] = None,
    html: Annotated[bool, typer.Option(help="Write the Evidently report, and put it on record in MLflow.")] = True,
    as_json: Json = False,
) -> None:
    """Judge the newest windows. Ends with code 10 if there is drift, 11 if the data is broken, 0 otherwise."""
    from dataclasses import asdict

    from driftwheel.wheel.watching import check_drift

    if since is not None:
        check_moment("--since", since)
    frame = None
    if window is not None:
        from training.data.tables import read_table

        frame = read_table(window)
    result = check_drift(resolved(ctx), model, since=since, window=frame, html=html)
    decision = result.decision
    if as_json:
        recommended = result.recommended and asdict(result.recommended)
        found = {
            "rows": result.rows,
            "recommended": recommended,
            "report": result.report_html,
            "run_id": result.run_id,
        }
        answer_json({**asdict(decision), **found})
    else:
        table = Table("monitor", "column", "alarms", "p", "why", title=decision.summary, title_justify="left")
        for one in decision.outcomes:
            style = "bold red" if one.drifted else None
            cells = (one.monitor, one.column, f"{one.alarms} of {one.windows}", f"{one.p_value:.1e}", one.why)
            table.add_row(*cells, style=style)
        ANSWER.print(table)
        if (lists := result.recommended) is not None:
            ANSWER.print(
                f"recommended: {lists.items:,} items in {lists.lists:,} lists ({lists.empty_lists:,} empty), "
                f"{lists.coverage:.1%} of the catalogue; {lists.top_share:.1%} of them are among the 50 most asked for, "
                f"as are {lists.asked_top_share:.1%} of the reference's rows",
                highlight=False,
                soft_wrap=True,
            )
        if result.report_html is not None:
            ANSWER.print(f"report: {result.report_html}", highlight=False, soft_wrap=True)
        if result.run_id is not None:
            ANSWER.print(f"in MLflow: run {result.run_id}, folder drift", highlight=False, soft_wrap=True)
    raise typer.Exit({"drift": 10, "broken data": 11}.get(decision.status, 0))
