"""What ``driftwheel up`` does beside its server once its table is printed: the watcher, and the loop that turns the wheel."""

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from http.server import ThreadingHTTPServer

from driftwheel.errors import AddressInUseError, BusyError
from driftwheel.settings import Settings
from driftwheel.wheel.tending import tending
from driftwheel.wheel.turn import STEPS
from driftwheel.wheel.watcher import watching


@contextmanager
def turning(settings: Settings, say: Callable[[str], None]) -> Generator[Callable[[], None]]:
    """Yield what is to be called every moment. Of the two, what another process does already is said, and left to it.

    Args:
        say: Told of what happens, in a line for people.

    Raises:
        ConfigurationError: The watcher's address or token file cannot be used.
        DataError: The ledger cannot be used.
    """
    settings = _with_steps(settings)
    look: Callable[[], None] = _nothing
    with ExitStack() as stack:
        try:
            server = stack.enter_context(watching(settings))
        except AddressInUseError as error:
            say(f"No metrics of the wheel from here: {error.message}.")
        else:
            say(f"Metrics of the wheel at {stack.enter_context(_answering(server))}.")
        try:
            look = stack.enter_context(tending(settings, say, retrain=True, judge=True)).look
        except BusyError as error:
            say(f"The wheel is not turned from here: {error.message}.")
        yield look


def _with_steps(settings: Settings) -> Settings:
    """The steps of ``up``, where none were chosen: its traffic is what somebody tries out."""
    retrain = settings.retrain
    return settings.model_copy(update={"retrain": retrain.model_copy(update={"steps": retrain.steps or STEPS})})


@contextmanager
def _answering(server: ThreadingHTTPServer) -> Generator[str]:
    """Answer on a thread of its own; the address of the metrics."""
    thread = threading.Thread(target=server.serve_forever, name="watcher")
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield f"http://{f'[{host}]' if ':' in str(host) else host}:{port}/metrics"
    finally:
        server.shutdown()
        thread.join()


def _nothing() -> None:
    """What there is to be done where another process does it."""
