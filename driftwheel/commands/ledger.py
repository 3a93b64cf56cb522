"""``driftwheel ledger``: what was decided, and why."""

from typing import Annotated, get_args

import typer
from rich.table import Table

from driftwheel.commands.common import ANSWER, Json, answer_json, resolved


def ledger(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="One model. Default: all.")] = None,
    *,
    kind: Annotated[str | None, typer.Option(help="gate, verdict, drift, retrain, rollout or archive.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 30,
    as_json: Json = False,
) -> None:
    """Every gate, verdict, drift decision, retrain, rollout and archiving, oldest first; with --json also its evidence."""
    from dataclasses import asdict

    from driftwheel.errors import ConfigurationError
    from monitoring.ledger import EntryKind, Ledger

    if kind is not None and kind not in get_args(EntryKind):
        raise ConfigurationError(f"--kind must be one of {', '.join(get_args(EntryKind))}, got {kind!r}")
    entries = Ledger(resolved(ctx).ledger).latest(model, kind, limit=limit)[::-1]  # pyright: ignore[reportArgumentType]
    if as_json:
        answer_json([asdict(entry) for entry in entries])
        return
    table = Table("#", "when (UTC)", "kind", "model", "what")
    for entry in entries:
        table.add_row(str(entry.id), entry.at[:19].replace("T", " "), entry.kind, entry.model, entry.summary)
    ANSWER.print(table)
