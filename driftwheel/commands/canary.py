"""``driftwheel canary``: release a version step by step."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.canary_history import explain, history
from driftwheel.commands.canary_verdict import show_verdict
from driftwheel.commands.common import ANSWER, Json, ModelName, answer_json, resolved

if TYPE_CHECKING:
    from driftwheel.rollout import Rollout

app = typer.Typer(help="Release a version step by step: split, judge, promote or abort.", no_args_is_help=True)
app.command()(history)
app.command()(explain)

Version = Annotated[int, typer.Argument(help="The exported version.")]
VERDICT_CODES = {"PROMOTE": 0, "STEP": 0, "HOLD": 10, "ABORT": 11}


@app.command()
def start(
    ctx: typer.Context,
    model: ModelName,
    version: Version,
    rivals: Annotated[
        list[int] | None,
        typer.Argument(metavar="[VERSION]...", help="More versions, tried at the same time with equal shares."),
    ] = None,
    *,
    steps: Annotated[
        str | None, typer.Option(help="Shares of traffic, with commas; 0 is shadow. Default: 0,0.01,0.05,0.25,0.5,1.")
    ] = None,
    shadow: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of traffic copied in shadow. Default: 0.1 if steps begin with 0."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A TOML file with steps and shadow; the options go before it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put a version on trial at the first step: in shadow, where it answers copies of requests and no caller. Of several the
    judge drops what is worse than stable, and keeps the best once there is no room for more.
    """
    from driftwheel.wheel.release_plan import Plan, read_plan
    from driftwheel.wheel.releases import parse_steps, start_trial

    planned = read_plan(plan) if plan else Plan()
    shares = planned.steps if steps is None else parse_steps(steps)
    copied = planned.shadow if shadow is None else shadow
    settings = resolved(ctx)
    rollout = start_trial(
        settings, model, version, rivals=tuple(rivals or ()), steps=shares, shadow=copied, by="canary start"
    )
    _show(rollout, as_json=as_json)


@app.command()
def status(ctx: typer.Context, model: ModelName, *, as_json: Json = False) -> None:
    """What serves, what is on trial and at which share, and what the judge saw when it last looked."""
    from dataclasses import asdict

    from driftwheel.rollout import read_rollout
    from monitoring.canary.looks import looks_of

    settings = resolved(ctx)
    rollout = read_rollout(settings.rollouts, model)
    looks = looks_of(settings.looks, rollout)
    verdicts = {version: payload["verdict"] for version, payload in looks.payloads.items() if rollout.on_trial}
    if as_json:
        answer_json({**asdict(rollout), "looked_at": looks.at if verdicts else "", "verdicts": verdicts})
        return
    _show(rollout, as_json=False)
    for verdict in verdicts.values():
        ANSWER.print(f"{looks.at}: {verdict['summary']}", highlight=False)


@app.command()
def step(ctx: typer.Context, model: ModelName, *, as_json: Json = False) -> None:
    """Give the candidate the next step's share, without asking the judge."""
    from driftwheel.wheel.releases import change

    _show(change(resolved(ctx), model, "step"), as_json=as_json)


@app.command()
def pause(ctx: typer.Context, model: ModelName, *, as_json: Json = False) -> None:
    """Hold the candidate at its share."""
    from driftwheel.wheel.releases import change

    _show(change(resolved(ctx), model, "pause"), as_json=as_json)


@app.command()
def resume(ctx: typer.Context, model: ModelName, *, as_json: Json = False) -> None:
    """Let a paused candidate go on."""
    from driftwheel.wheel.releases import change

    _show(change(resolved(ctx), model, "resume"), as_json=as_json)


@app.command()
def abort(
    ctx: typer.Context,
    model: ModelName,
    version: Annotated[int | None, typer.Argument(help="The one to drop of several. Default: all on trial.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Drop the candidate; the stable version gets its traffic again."""
    from driftwheel.wheel.releases import change

    _show(change(resolved(ctx), model, "abort", version=version), as_json=as_json)


@app.command()
def promote(
    ctx: typer.Context,
    model: ModelName,
    version: Annotated[int | None, typer.Argument(help="Any exported version. Default: the candidate.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Put a version in service at once: the candidate, or any other (a first version, or a rollback)."""
    from driftwheel.wheel.releases import change, put_in_service

    settings = resolved(ctx)
    rollout = change(settings, model, "promote") if version is None else put_in_service(settings, model, version)
    _show(rollout, as_json=as_json)


@app.command()
def judge(
    ctx: typer.Context,
    model: ModelName,
    *,
    act: Annotated[bool, typer.Option(help="Act on the verdict and write it down.")] = True,
    as_json: Json = False,
) -> None:
    """Look once. Ends with code 0 for PROMOTE and STEP, 10 for HOLD, 11 for ABORT."""
    from driftwheel.wheel.judging import look

    verdict, rollout = look(resolved(ctx), model, act=act)
    show_verdict(verdict, rollout, as_json=as_json)
    raise typer.Exit(VERDICT_CODES[verdict.decision])


@app.command()
def watch(
    ctx: typer.Context,
    model: ModelName,
    *,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 10.0,
    timeout_s: Annotated[float, typer.Option(min=0, help="Give up after so many seconds.")] = 3600.0,
    as_json: Json = False,
) -> None:
    """Look until the candidate is promoted (code 0) or aborted (code 11); code 10 if it takes longer than the timeout. Several
    candidates are shown side by side, and the last that is left decides.
    """
    from driftwheel.wheel.judging import look

    settings, give_up = resolved(ctx), time.monotonic() + timeout_s
    while True:
        verdict, rollout = look(settings, model)
        show_verdict(verdict, rollout, as_json=as_json)
        if verdict.decision in ("PROMOTE", "ABORT"):
            raise typer.Exit(VERDICT_CODES[verdict.decision])
        if time.monotonic() + every_s > give_up:
            raise typer.Exit(VERDICT_CODES["HOLD"])
        time.sleep(every_s)


def _show(rollout: "Rollout", *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        answer_json(asdict(rollout))
        return
    trial = "no candidate"
    if rollout.candidate is not None:
        step = f"step {rollout.step + 1} of {len(rollout.steps)}"
        share = f"{rollout.weight:.2%}" if rollout.weight else f"0 %, in shadow of {rollout.shadow:.2%}"
        share += " each" if rollout.rivals else ""
        several = " and ".join(map(str, rollout.on_trial))
        trial = f"version {several} {rollout.state} at {share} ({step})"
    ANSWER.print(f"{rollout.model}: version {rollout.stable} in service; {trial}", highlight=False)
