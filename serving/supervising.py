"""One server, from the claim of its port to the sealing of its log: what its supervisor does around ``FrontDoor``."""

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import FrameType

import structlog

from driftwheel.files import exclusive_lock
from serving import runtime
from serving.addresses import bound
from serving.plan import Plan
from serving.retention import Expirer
from serving.runtime import ServerAddress
from serving.sealing import Sealer
from serving.supervisor import FrontDoor

_log = structlog.get_logger()

_LONGEST_SOCKET_PATH = 107

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What drains the server."""


@contextlib.contextmanager
def _claimed(plan: Plan) -> Generator[Plan]:
    """The plan with a port that no other server can take; 0 is still 0 where one worker is to choose for itself.

    Several workers share their port by SO_REUSEPORT, which alone would let a second server in, to take its part of the
    connections. So the supervisor binds the port alone, as one that shares with nobody, and only then opens it to its own:
    whoever checks an address as we do is refused for as long as the supervisor lives. It never listens itself.

    Raises:
        AddressInUseError: The port is taken.
        ConfigurationError: The address is not one of this machine's.
    """
    with bound(plan.host, plan.port) as claim:
        if plan.workers > 1:
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            yield plan.on_port(claim.getsockname()[1])
            return
    yield plan


@contextlib.contextmanager
def supervised(plan: Plan) -> Generator[tuple[FrontDoor, ServerAddress]]:
    """Start the server and yield once all its workers answer; drain it when the block ends.

    A dead worker is started again for as long as the caller is in ``FrontDoor.wait``.

    Raises:
        BusyError: This home is served already.
        AddressInUseError: The port is taken.
        ConfigurationError: The server cannot start here.
    """
    with (
        exclusive_lock(runtime.lock_path(plan), purpose=f"serving from {plan.home}"),
        _claimed(plan) as claimed,
        _socket_folder(plan) as folder,
    ):
        runtime.clear(plan)
        sealer = Sealer(plan.prediction_log, plan.compression, plan.flush_interval_s)
        expirer = Expirer(plan.prediction_log, plan.retention)

        def look_after_the_log() -> None:
            sealer.look()
            expirer.look()

        door = FrontDoor(claimed, folder, beside=look_after_the_log)
        try:
            address = door.wait_until_up()
            runtime.announce(plan, address)
            yield door, address
        finally:
            door.drain()
            runtime.clear(plan)
            sealer.close()


@contextlib.contextmanager
def _socket_folder(plan: Plan) -> Generator[Path]:
    """Where admin sockets lie: under the home, or, as a socket's path has at most 107 bytes, in a temporary folder."""
    folder = plan.runtime / "door"
    if len(os.fsencode(folder / f"admin-{plan.workers}")) > _LONGEST_SOCKET_PATH:
        with tempfile.TemporaryDirectory(prefix="driftwheel-") as temporary:
            yield Path(temporary)
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    yield folder


def supervise_until_signalled(plan: Plan) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Both may be blocked until here.

    Raises:
        DriftwheelError: The server cannot start, or ended by itself.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        del frame
        raise _SignalledError(signal.Signals(signum).name)

    for signum in SIGNALS:
        signal.signal(signum, leave)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        with supervised(plan) as (door, address):
            _log.info("server.up", url=address.url, grpc=address.target, home=plan.home, workers=plan.workers)
            door.wait()
    except _SignalledError as signalled:
        _log.info("server.stopped", by=str(signalled))


class _SignalledError(Exception):
    """A signal asked the supervisor to stop."""
