"""``driftwheel torchserve``: a TorchServe of this home, behind the server."""

import signal
from typing import Annotated

import typer
from rich.table import Table

from driftwheel.commands.common import ANSWER, PEOPLE, Json, answer_json, resolved

app = typer.Typer(
    help="Run bundles on TorchServe, behind the server: hardened, tuned, with the versions that the rollouts name.",
    no_args_is_help=True,
)


@app.command()
def up(
    ctx: typer.Context,
    *,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; give it twice for two.")] = None,
    foreground: Annotated[bool, typer.Option(help="Stay, and stop it at Ctrl-C or SIGTERM.")] = False,
    as_json: Json = False,
) -> None:
    """Start TorchServe with what the rollouts name, or bring it up to date.

    Archives are written where they are missing. Run it again after canary start, promote or abort: a new TorchServe with the
    wanted versions takes over from the old one, and no call fails. Where nothing has changed it does nothing. It listens on
    loopback, asks for tokens and takes no code from outside; the server finds it by itself (serving.backend = "torchserve").
    """
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.torchserve import turn_up
    from serving.torchserve.lifecycle import stay

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped then, too
    settings = resolved(ctx, torchserve={"models": tuple(model) if model else None})
    change = turn_up(settings, SILENT if as_json else reporter_for(PEOPLE), foreground=foreground)
    _show(ctx, as_json=as_json, change=change)
    if foreground:
        stay(settings)


@app.command()
def status(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Versions, workers and queues. Ends with code 1 if it is down or a version cannot answer."""
    if not _show(ctx, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def down(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Stop TorchServe: calls in flight finish, then it ends with its workers. Its keys are deleted."""
    from serving.torchserve.lifecycle import down as stop

    stopped = stop(resolved(ctx))
    if as_json:
        answer_json({"stopped": stopped})
    else:
        PEOPLE.print("TorchServe is down." if stopped else "TorchServe was not running.")


def _show(ctx: typer.Context, *, as_json: bool, **more: str) -> bool:
    """Whether every version can answer."""
    from driftwheel.wheel.torchserve import look

    found = look(resolved(ctx))
    if as_json:
        answer_json({**found, **more})
    elif not found["running"]:
        PEOPLE.print("TorchServe is down.")
    else:
        table = Table("model", "version", "workers ready", "queued", "state")
        for one in found["versions"]:
            ready, queued = f"{one['workers_ready']} of {one['workers']}", f"{one['queued']} of {one['queue_size']}"
            table.add_row(one["model"], one["version"], ready, queued, one["problem"] or "ready")
        ANSWER.print(table)
        PEOPLE.print(f"Process {found['pid']}, gRPC at {found['grpc']}, HTTP at {found['http']}", highlight=False)
        for one in found["missing"]:
            PEOPLE.print(f"Not served yet: {one} (driftwheel torchserve up)", highlight=False)
    return found["running"] and found["healthy"]
