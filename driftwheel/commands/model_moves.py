"""``driftwheel models promote|archive|restore|rollback``: who serves, and who never shall."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import ANSWER, PEOPLE, Json, ModelName, answer_json, resolved

if TYPE_CHECKING:
    from driftwheel.rollout import Rollout

VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="A number, champion, challenger or an alias.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]


class Role(StrEnum):
    """What a version is promoted to."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


def promote(
    ctx: typer.Context,
    model: ModelName,
    version: VersionName = "challenger",
    *,
    to: Annotated[Role, typer.Option(help="champion: in service at once; challenger: on trial.")] = Role.CHAMPION,
    steps: Annotated[
        str, typer.Option(help="A challenger's shares of traffic, with commas.")
    ] = "0,0.01,0.05,0.25,0.5,1",
    force: Annotated[bool, typer.Option("--force", help="Without asking the gate; the ledger says so.")] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Put a version in service, or on trial, if it passes the gate beside the version that serves; MLflow's aliases follow.

    Ends with code 6 if the gate refuses it, it is archived, or it cannot answer the champion's requests.
    """
    from driftwheel.wheel.comparing import find_version
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.promotion import promote as run
    from driftwheel.wheel.releases import parse_steps

    settings = resolved(ctx)
    number, shares = find_version(settings, model, version), parse_steps(steps)
    reporter = SILENT if as_json else reporter_for(PEOPLE)
    _show(
        run(settings, model, number, role=to.value, reason=reason, reporter=reporter, steps=shares, force=force),
        as_json=as_json,
    )


def rollback(ctx: typer.Context, model: ModelName, *, reason: Reason = "", as_json: Json = False) -> None:
    """Put the champion before this one back in service at once. Twice goes back twice; archived ones are passed over."""
    from driftwheel.wheel.promotion import roll_back

    _show(roll_back(resolved(ctx), model, reason=reason), as_json=as_json)


def archive(
    ctx: typer.Context, model: ModelName, version: VersionName, *, reason: Reason = "", as_json: Json = False
) -> None:
    """Put a version away: nothing releases it until it is restored. What is in service or on trial cannot be."""
    _set_archived(ctx, model, version, archived=True, reason=reason, as_json=as_json)


def restore(
    ctx: typer.Context, model: ModelName, version: VersionName, *, reason: Reason = "", as_json: Json = False
) -> None:
    """Take a version out of the archive."""
    _set_archived(ctx, model, version, archived=False, reason=reason, as_json=as_json)


def _set_archived(ctx: typer.Context, model: str, version: str, *, archived: bool, reason: str, as_json: bool) -> None:
    from driftwheel.wheel.comparing import find_version
    from driftwheel.wheel.promotion import set_archived

    settings = resolved(ctx)
    number = find_version(settings, model, version)
    set_archived(settings, model, number, archived=archived, reason=reason)
    if as_json:
        answer_json({"model": model, "version": number, "archived": archived})
    else:
        ANSWER.print(f"{model}: version {number} {'archived' if archived else 'restored'}", highlight=False)


def _show(rollout: "Rollout", *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        answer_json(asdict(rollout))
        return
    trial = "" if rollout.candidate is None else f", version {rollout.candidate} on trial at {rollout.weight:.2%}"
    ANSWER.print(f"{rollout.model}: version {rollout.stable} in service{trial}", highlight=False)
