"""One worker: an Envoy process with the application inside, and the admin interface that it is watched and drained through."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import structlog

from driftwheel.processes import tied
from serving import runtime
from serving.plan import Plan

_log = structlog.get_logger()

_QUIET_S = 0.5
"""A connection that brings no call for so long is idle, and may be closed; longer than the pause between two GOAWAYs."""

_LOOK_TIMEOUT_S = 0.5
"""While bundles load, the admin interface takes a question and does not answer; the other workers are to be looked at too."""

_END_TIMEOUT_S = 10.0

_UNANSWERED = (OSError, http.client.HTTPException, LookupError, ValueError)
"""What a question to a process that is starting or ending raises: it answers with nothing, or with half of something."""


class AdminConnection(http.client.HTTPConnection):
    """Envoy's admin interface, over a socket file that only this user can open."""

    def __init__(self, path: Path, *, timeout_s: float = 5.0) -> None:
        super().__init__("admin", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket file in place of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Worker:
    """A process that has just been started.

    Args:
        folder: For its configuration and its admin socket.
        index: Its place among the workers, from 0; a worker started again takes the dead one's.
    """

    def __init__(self, plan: Plan, folder: Path, index: int) -> None:
        self.index = index
        self.started_s = time.monotonic()
        self.up = False
        """Whether it has been seen to answer."""
        self._plan = plan
        self._admin_socket, config = folder / f"admin-{index}", folder / f"envoy-{index}.json"
        self._admin_socket.unlink(missing_ok=True)
        self._calls, self._quiet_since_s, self._flush_requested = -1, 0.0, False
        plan.files.write(self._admin_socket, config)
        self._process = subprocess.Popen(
            tied([*plan.envoy, str(config)]),
            env=plan.child_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C on the terminal is for the supervisor, which drains first
        )

    @property
    def pid(self) -> int:
        """Its process id, the same outside and inside."""
        return self._process.pid

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started_s

    def ended(self) -> str | None:
        """How it ended, in words; None while it lives."""
        code = self._process.poll()
        if code is None:
            return None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def address(self) -> tuple[str, int] | None:
        """Where it answers; None until the bundles are loaded and the port is open."""
        with contextlib.suppress(*_UNANSWERED):
            listeners = json.loads(self._admin("GET", "/listeners?format=json", timeout_s=_LOOK_TIMEOUT_S))
            address = listeners["listener_statuses"][0]["local_address"]["socket_address"]
            self.up = True
            return address["address"], address["port_value"]
        return None

    def send_away(self) -> None:
        """Tell each connection, with its next answer, to go away (GOAWAY); new ones are still taken."""
        with contextlib.suppress(*_UNANSWERED):
            self._admin("POST", "/drain_listeners?graceful&skip_exit")

    def close_port(self) -> None:
        """Take no new connections."""
        with contextlib.suppress(*_UNANSWERED):
            self._admin("POST", "/drain_listeners")

    def is_idle(self) -> bool:
        """Whether it can be ended: all answered, every connection gone or silent for a while, and then its log written."""
        try:
            return self._has_answered_all() and self._has_written_all()
        except _UNANSWERED:
            return True  # it is ending already

    def _has_answered_all(self) -> bool:
        stats = self._stats()
        if stats["downstream_rq_active"] or stats["downstream_rq_total"] != self._calls:
            self._calls, self._quiet_since_s = stats["downstream_rq_total"], time.monotonic()
        quiet = time.monotonic() - self._quiet_since_s >= _QUIET_S
        return not stats["downstream_rq_active"] and (quiet or not stats["downstream_cx_active"])

    def _has_written_all(self) -> bool:
        # Envoy does not wait for the application when it ends; what is to be written must be written before.
        if not self._flush_requested:
            runtime.request_last_flush(self._plan, self.pid)
            self._flush_requested = True
        return runtime.is_drained(self._plan, self.pid)

    def _stats(self) -> dict[str, int]:
        """Envoy's counts of open connections, open requests, and requests so far."""
        wanted = "ingress_http.downstream_(cx_active|rq_active|rq_total)$"
        stats = json.loads(self._admin("GET", f"/stats?format=json&filter={quote(wanted)}"))["stats"]
        return {stat["name"].removeprefix("http.ingress_http."): stat["value"] for stat in stats if "value" in stat}

    def terminate(self) -> None:
        """Ask it to end; the application may not come to seal its log on the way."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended, and kill it when that takes too long."""
        try:
            self._process.wait(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _log.warning("worker.killed", worker=self.index, process=self.pid)
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _admin(self, method: str, path: str, *, timeout_s: float = 5.0) -> bytes:
        connection = AdminConnection(self._admin_socket, timeout_s=timeout_s)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()
