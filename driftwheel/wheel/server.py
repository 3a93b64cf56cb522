"""The server as ``up`` needs it: the one that serves this home already, or one of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from driftwheel.client import Client, ClientError
from driftwheel.errors import ConfigurationError, DriftwheelError
from driftwheel.files import is_locked
from driftwheel.processes import tied
from driftwheel.settings import Settings
from driftwheel.wheel.connecting import connect
from serving import runtime
from serving.runtime import ServerAddress

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 40.0
_APPLY_TIMEOUT_S = 20.0


def running_server(settings: Settings) -> ServerAddress | None:
    """Where this home is served already; None where it is not."""
    if not is_locked(runtime.lock_path(settings)):
        return None
    # Between taking the lock and answering, or between the last answer and the end, it has no address to give.
    return runtime.server_address(settings) or ServerAddress(
        settings.serving.host, settings.serving.port, 0, settings.security.tls
    )


@contextmanager
def ensured_server(settings: Settings) -> Generator[ServerAddress]:
    """The running server, or a new ``driftwheel serve`` that is drained when the block ends.

    Raises:
        ConfigurationError: The new server did not come up; the message ends with its last words.
    """
    if (address := _ready_server(settings)) is not None:
        yield address
        return
    settings.runtime.mkdir(parents=True, exist_ok=True)
    log = settings.runtime / "server.log"
    with log.open("wb") as output:
        # With the settings in the environment and no flags, the child resolves to exactly ours.
        process = subprocess.Popen(
            tied([sys.executable, "-m", "driftwheel", "serve"]),
            env=settings.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield _wait_until_ready(settings, process, log.read_text)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready_server(settings: Settings) -> ServerAddress | None:
    """A running server that takes traffic. One that drains (its ``up`` was killed, say) is waited for; then there is none."""
    give_up = time.monotonic() + _STOP_TIMEOUT_S
    while (address := running_server(settings)) is not None:
        if _ready(settings, address):
            return address
        if time.monotonic() > give_up:
            raise ConfigurationError(
                f"the server of this home (process {address.pid}) does not become ready",
                hint=f"see what it says at {address.url}/v2/health/ready, or stop it",
            )
        time.sleep(0.1)
    return None


def _wait_until_ready(
    settings: Settings, process: "subprocess.Popen[bytes]", last_words: Callable[[], str]
) -> ServerAddress:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            break
        address = runtime.server_address(settings)
        if address is not None and address.pid == process.pid and _ready(settings, address):
            return address
        time.sleep(0.05)
    raise ConfigurationError(
        "the server did not come up; its last words:\n" + "\n".join(last_words().splitlines()[-8:])
    )


def _ready(settings: Settings, address: ServerAddress) -> bool:
    with connect(settings, address.target) as client:
        try:
            return client.ready()
        except ClientError:
            return False


def wait_until_loaded(client: Client, model: str, version: int) -> None:
    """Wait until the server can answer with a version.

    Raises:
        DriftwheelError: It refuses the version, or does not load it in time.
    """
    give_up = time.monotonic() + _APPLY_TIMEOUT_S
    state = "not seen"
    while time.monotonic() < give_up:
        state = client.versions(model).get(version, "not loaded")
        if state == "READY":
            return
        if state.startswith("UNAVAILABLE"):
            break
        time.sleep(0.05)
    raise DriftwheelError(f"the server cannot answer with version {version} of {model}: {state}")
