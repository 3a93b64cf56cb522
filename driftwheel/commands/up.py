"""``driftwheel up``: the whole wheel."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import ANSWER, PEOPLE, Json, answer_json, resolved
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.settings import Settings
    from driftwheel.wheel.sources import Sources


@with_sources
def up(
    ctx: typer.Context,
    *,
    once: Annotated[bool, typer.Option("--once", help="End after the table instead of serving on.")] = False,
    port: Annotated[int | None, typer.Option(help="The server's port; 0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; loopback unless told otherwise.")] = None,
    watch: Annotated[
        bool, typer.Option(help="While serving on, offer metrics of the wheel, look for drift, retrain and judge.")
    ] = True,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Turn the whole wheel once on real data, then serve on and keep it turning.

    Prepares data, trains both models under torchrun, tracks and registers them in MLflow, exports and serves them,
    replays the ratings after the cut date as traffic with feedback, looks for drift, retrains, and lets the judge decide
    about the new version on live evidence. Then it serves on, and the wheel turns by itself: metrics at port 9108, drift
    checks, retrains as the policy allows, and the judge. Interrupted, it goes on where it stopped. Default data: MovieLens
    and Telco churn, as packaged; your own by the options below.
    """
    from driftwheel.files import exclusive_lock
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.server import running_server
    from driftwheel.wheel.summary import print_summary, summary_json
    from driftwheel.wheel.turn import Turn
    from serving.addresses import check_address

    settings = resolved(ctx, serving={"port": port, "host": host})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with exclusive_lock(settings.runtime / "up.lock", purpose=f"driftwheel up in {settings.home}"):
        if running_server(settings) is None:
            check_address(settings.serving.host, settings.serving.port)
        with _resumable(), Turn(settings, sources, SILENT if as_json else reporter_for(PEOPLE)).run() as report:
            if as_json:
                answer_json(summary_json(report))
            else:
                print_summary(ANSWER, settings, report, serving_on=not once)
            if not once:
                _serve_on(settings, watch=watch)


@contextmanager
def _resumable() -> Generator[None]:
    """Say, when somebody interrupts, that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        PEOPLE.print("Interrupted; the same command goes on where this stopped.")
        raise typer.Exit(130) from None


def _serve_on(settings: "Settings", *, watch: bool) -> None:
    """Serve on, and keep the wheel turning, until Ctrl-C or SIGTERM.

    Raises:
        DriftwheelError: The server ended by itself.
    """
    from driftwheel.errors import DriftwheelError
    from driftwheel.wheel.server import running_server
    from driftwheel.wheel.serving_on import turning

    try:
        with turning(settings, _say) if watch else nullcontext(lambda: None) as look:
            _say("Serving until Ctrl-C.")
            while running_server(settings) is not None:
                look()
                time.sleep(1)
    except KeyboardInterrupt:
        _say("Draining.")
        return
    raise DriftwheelError("the server ended by itself", hint=f"its last words are in {settings.runtime / 'server.log'}")


def _say(line: str) -> None:
    PEOPLE.print(line, highlight=False, soft_wrap=True)
