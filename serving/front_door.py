"""The front door: one port, and behind it one or several workers, each an Envoy with our application embedded by pyvoy.

Envoy does HTTP/1.1 and HTTP/2, connection limits and buffering in C++; the application sees one call at a time.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import FrameType

import find_libpython
import structlog

from driftwheel.errors import AddressInUseError, ConfigurationError
from driftwheel.files import exclusive_lock
from driftwheel.settings import Settings
from serving import runtime
from serving.runtime import ServerAddress
from serving.sealing import Sealer
from serving.security import secured
from serving.supervisor import FrontDoor
from serving.tracing import check_tracing

_log = structlog.get_logger()

_LONGEST_SOCKET_PATH = 107


def check_address(host: str, port: int) -> None:
    """Refuse a port that somebody listens on, before anything is started.

    Raises:
        AddressInUseError: It is taken.
        ConfigurationError: The address is not one of this machine's.
    """
    _bound(host, port).close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address that nobody else holds; errors as ``check_address`` has them."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            bound = on_error.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            on_error.pop_all()
            return bound
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                f"port {port} on {host} is in use by another process",
                hint="stop it, or choose another port with --port (0 takes a free one)",
            ) from None
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from None


@contextlib.contextmanager
def _claimed(settings: Settings) -> Generator[Settings]:
    """The settings with a port that no other server can take; 0 is still 0 where one worker is to choose for itself.

    Several workers share their port by SO_REUSEPORT, which alone would let a second server in, to take its part of the
    connections. So the supervisor binds the port alone, as one that shares with nobody, and only then opens it to its own:
    whoever checks an address as we do is refused for as long as the supervisor lives. It never listens itself.

    Raises:
        AddressInUseError: The port is taken.
        ConfigurationError: The address is not one of this machine's.
    """
    serving = settings.serving
    with _bound(serving.host, serving.port) as claim:
        if serving.workers > 1:
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = claim.getsockname()[1]
            yield settings.model_copy(update={"serving": serving.model_copy(update={"port": port})})
            return
    yield settings


@contextlib.contextmanager
def running(settings: Settings) -> Generator[tuple[FrontDoor, ServerAddress]]:
    """Start the server and yield once all its workers answer; drain it when the block ends.

    A dead worker is started again for as long as the caller is in ``FrontDoor.wait``.

    Raises:
        BusyError: This home is served already.
        AddressInUseError: The port is taken.
        ConfigurationError: The server cannot start here, or not as securely as it is told to.
    """
    if sys.platform != "win32" and find_libpython.find_libpython() is None:
        raise ConfigurationError(
            f"this Python ({sys.executable}) has no shared library, which Envoy needs to embed it",
            hint=f"install Debian's libpython{sys.version_info.major}.{sys.version_info.minor}, "
            "or build Python with --enable-shared",
        )
    check_tracing(settings)
    settings = secured(settings)
    with (
        exclusive_lock(runtime.lock_path(settings), purpose=f"serving from {settings.home}"),
        _claimed(settings) as claimed,
        _socket_folder(settings) as folder,
    ):
        runtime.clear(settings)
        sealer = Sealer(claimed)
        door = FrontDoor(claimed, folder, beside=sealer.look)
        try:
            address = door.wait_until_up()
            runtime.announce(settings, address)
            yield door, address
        finally:
            door.drain()
            runtime.clear(settings)
            sealer.close()


@contextlib.contextmanager
def _socket_folder(settings: Settings) -> Generator[Path]:
    """Where admin sockets lie: under the home, or, as a socket's path has at most 107 bytes, in a temporary folder."""
    folder = settings.runtime / "door"
    if len(os.fsencode(folder / f"admin-{settings.serving.workers}")) > _LONGEST_SOCKET_PATH:
        with tempfile.TemporaryDirectory(prefix="driftwheel-") as temporary:
            yield Path(temporary)
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    yield folder


def serve_until_signalled(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        DriftwheelError: The server cannot start, or ended by itself.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        del frame
        raise _SignalledError(signal.Signals(signum).name)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, leave)
    try:
        with running(settings) as (door, address):
            _log.info(
                "server.up",
                url=address.url,
                grpc=address.target,
                home=str(settings.home),
                workers=settings.serving.workers,
            )
            door.wait()
    except _SignalledError as signalled:
        _log.info("server.stopped", by=str(signalled))


class _SignalledError(Exception):
    """A signal asked the supervisor to stop."""
