"""``driftwheel canary history`` and ``explain``: what became of releases, and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from driftwheel.commands.canary_verdict import side_by_side
from driftwheel.commands.common import ANSWER, PEOPLE, Json, ModelName, answer_json, resolved

if TYPE_CHECKING:
    from driftwheel.wheel.explaining import Explained

_BAR = 30
"""Characters of a bar that reaches an abort."""


def history(
    ctx: typer.Context,
    model: ModelName,
    *,
    limit: Annotated[int, typer.Option(min=1, help="The newest entries.")] = 20,
    as_json: Json = False,
) -> None:
    """What was done and judged about a model's releases, oldest first."""
    from dataclasses import asdict

    from driftwheel.wheel.explaining import history as entries_of

    entries = entries_of(resolved(ctx), model, limit=limit)
    if as_json:
        answer_json([asdict(entry) for entry in entries])
        return
    table = Table("number", "at", "kind", "what")
    for entry in entries:
        table.add_row(str(entry.id), entry.at, entry.kind, entry.summary)
    ANSWER.print(table)


def explain(
    ctx: typer.Context,
    model: ModelName,
    number: Annotated[
        int | None, typer.Argument(help="A verdict's number in the ledger. Default: the newest look.")
    ] = None,
    *,
    version: Annotated[
        int | None, typer.Option(help="The newest look at this version. Default: at all of the newest trial.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the trial's evidence into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a verdict's evidence again and show how near each test came to an abort; of several candidates side by side. Ends
    with code 1 where today's judge decides otherwise.
    """
    from dataclasses import asdict

    from driftwheel.wheel.explaining import draw
    from driftwheel.wheel.explaining import explain as trials_of

    trials = trials_of(resolved(ctx), model, number, version=version)
    if png is not None:
        draw(png, model, trials)
    newest = [looks[-1] for looks in trials]
    same = all(look.verdict.decision == look.again.decision for look in newest)
    if as_json:
        answer_json({"same_decision": same, "looks": [asdict(look) for looks in trials for look in looks]})
    else:
        for looks in trials:
            _say(looks)
        if len(newest) == 1:
            _show(newest[0])
        else:
            ANSWER.print(side_by_side([(look.version, look.verdict, look.verdict.decision) for look in newest]))
    raise typer.Exit(0 if same else 1)


def _say(looks: "Sequence[Explained]") -> None:
    """Which verdict it is, and its sentence."""
    look = looks[-1]
    same = look.verdict.decision == look.again.decision
    today = "the same decision" if same else f"{look.again.decision} by today's judge"
    which = f"verdict {look.number}" if look.number is not None else "newest look, which is not in the ledger"
    about = f"version {look.version}: {which}, number {len(looks)} of what is kept of its trial, {look.at}; {today}"
    PEOPLE.print(about, highlight=False)
    ANSWER.print(look.verdict.summary, highlight=False)


def _show(look: "Explained") -> None:
    from driftwheel.wheel.explaining import strengths

    found = strengths(look.verdict)
    table = Table("check", "outcome", "difference", "at least", "limit", "evidence (a full bar aborts)")
    for check in look.verdict.checks:
        share = found.get(check.name)
        bar = "" if share is None else f"{share:.0%} {'█' * round(min(share, 1.0) * _BAR)}"
        numbers = [
            f"{value:.4g}" if value is not None else "" for value in (check.difference, check.at_least, check.limit)
        ]
        table.add_row(check.name, check.outcome, *numbers, bar)
    ANSWER.print(table)
