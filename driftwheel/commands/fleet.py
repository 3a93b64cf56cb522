"""``driftwheel fleet``: many servers of one home."""

import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from driftwheel.commands.common import PEOPLE, Json, answer_json, resolved

if TYPE_CHECKING:
    from driftwheel.settings import Settings
    from driftwheel.wheel.fleet import Moved
    from driftwheel.wheel.fleet_store import Store

app = typer.Typer(
    help="Many servers of one home: it publishes to a store, the servers' homes follow the store.\n\n"
    "A store is a folder that all reach, s3://bucket/prefix or gs://bucket/prefix. Bundles and rollouts go to the servers, "
    "sealed segments of their logs come back, and so does what a server could not load of what is on trial.",
    no_args_is_help=True,
)

StoreUrl = Annotated[str, typer.Argument(metavar="STORE", help="A folder, s3://bucket/prefix or gs://bucket/prefix.")]
Every = Annotated[
    float | None,
    typer.Option(min=0.1, help="Look again after so many seconds, until SIGTERM or Ctrl-C. Default: look once."),
]

_log = structlog.get_logger()


@app.command()
def publish(ctx: typer.Context, store: StoreUrl, *, every_s: Every = None, as_json: Json = False) -> None:
    """Put the bundles that the rollouts name, and the rollouts, into the store; fetch what the servers logged, and what they
    could not load of what is on trial: the judge aborts it.
    """
    from driftwheel.wheel.fleet import publish as run
    from driftwheel.wheel.fleet_store import Store

    settings, opened = resolved(ctx), Store(store)
    _look(settings, opened, lambda: run(settings, opened), every_s=every_s, as_json=as_json)


@app.command()
def follow(
    ctx: typer.Context,
    store: StoreUrl,
    *,
    every_s: Every = None,
    host: Annotated[
        str | None,
        typer.Option(help="Tells what this server hands over from what the others do.", show_default="the host's name"),
    ] = None,
    keep: Annotated[
        int, typer.Option(min=0, help="Keep so many versions of each model that no rollout names any more.")
    ] = 2,
    as_json: Json = False,
) -> None:
    """Take what the store's rollouts name into this home, for a server to serve; hand over what it logged, and
    what it could not load of what is on trial.

    Each bundle is checked before it gets its name here, and a server switches once its rollout is here, too. With --every-s,
    what cannot be done now is said, and tried again.
    """
    from driftwheel.wheel.fleet import follow as run
    from driftwheel.wheel.fleet_store import Store

    settings, opened, name = resolved(ctx), Store(store), host or socket.gethostname()
    _look(settings, opened, lambda: run(settings, opened, host=name, keep=keep), every_s=every_s, as_json=as_json)


def _look(
    settings: "Settings", store: "Store", look: "Callable[[], Moved]", *, every_s: float | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from driftwheel.errors import DriftwheelError
    from driftwheel.wheel.fleet import looked, reached

    if every_s is None:
        _say(reached(store, look), as_json=as_json)
        return
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    last = False
    while not last:
        last = stop.wait(
            every_s
        )  # once more after the signal: a server that has drained has sealed the rest of its log
        looked(settings)
        try:
            moved = reached(store, look)
        except DriftwheelError as error:
            _log.error("fleet.not_reached", store=store.url, reason=str(error))
            continue
        if any(asdict(moved).values()):
            _log.info("fleet.moved", **asdict(moved))


def _say(moved: "Moved", *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        answer_json(asdict(moved))
        return
    bundles, rollouts = ", ".join(moved.bundles) or "none", ", ".join(moved.rollouts) or "none"
    more = f" Removed: {', '.join(moved.removed)}." if moved.removed else ""
    more += f" Refused at load: {', '.join(moved.refusals)}." if moved.refusals else ""
    PEOPLE.print(f"Bundles: {bundles}. Rollouts: {rollouts}. Log segments: {moved.segments}.{more}", highlight=False)
