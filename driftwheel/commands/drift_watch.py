"""``driftwheel drift watch``: the loop that looks for drift, retrains and judges by itself."""

import signal
import time
from typing import Annotated

import typer

from driftwheel.commands.common import PEOPLE, resolved

LOOK_S = 0.5
"""Between two looks at what is due, in seconds."""


def watch(
    ctx: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default: all in service.")] = None,
    *,
    every_s: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between two checks of a model.", show_default="300")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Retrain where drift or the schedule wants it and the policy allows it.")
    ] = False,
    judge: Annotated[bool, typer.Option("--judge", help="Let the judge look at candidates, and act on it.")] = False,
) -> None:
    """Check the models in service again and again, write each decision into the ledger, and say what has changed.

    With --retrain and --judge nobody need touch the wheel: drift, or the schedule (retrain.every_days), starts a retrain in
    a process of its own (or a Job in Kubernetes: retrain.runner), whose version goes on trial, and the judge steps,
    promotes or aborts it. Ends with Ctrl-C or SIGTERM; a retrain that is going on ends too, and the next one goes on from
    its checkpoint.
    """
    from driftwheel.wheel.tending import tending

    settings = resolved(ctx, drift={"check_every_s": every_s})
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def say(line: str) -> None:
        PEOPLE.print(line, highlight=False, soft_wrap=True)

    try:
        with tending(settings, say, models=models or (), retrain=retrain, judge=judge) as loop:
            say(f"Watching {settings.home} until Ctrl-C.")
            while True:
                loop.look()
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        say("Ending.")
