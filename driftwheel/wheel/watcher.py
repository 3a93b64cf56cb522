"""The watcher: the wheel's metrics and Alertmanager's webhook over HTTP, from the home that commands and servers share.

A process of its own, not a part of the server: it needs the ledger and starts trainings, both of which the server must
know nothing of; and its metrics stay while the server is down, which is when somebody looks.

::

    GET  /metrics     Prometheus
    GET  /healthz     200 while it lives
    GET  /v1/releases/MODEL/VERSION   how the release stands, for Argo Rollouts; with a token of the role console
    POST /v1/alerts   Alertmanager's notifications, with a token of the role retrain
"""

import json
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry, generate_latest, platform_collector, process_collector
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from driftwheel.errors import (
    DriftwheelError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    TooLargeError,
    UnauthenticatedError,
    UnimplementedError,
)
from driftwheel.settings import Settings
from driftwheel.wheel.alert_retrains import AlertRetrains
from driftwheel.wheel.release_state import release_state
from monitoring.alert_webhook import MOST_BYTES, parse_notification
from monitoring.wheel_metrics import WheelMetrics
from serving.access import Access, Role
from serving.addresses import bound
from serving.security import allowed_hosts, default_token_file, is_loopback

_CODES: dict[type[DriftwheelError], int] = {
    InvalidRequestError: 400,
    UnauthenticatedError: 401,
    PermissionDeniedError: 403,
    NotFoundError: 404,
    TooLargeError: 413,
    UnimplementedError: 501,
}
"""Anything else is our fault: 500, and Alertmanager tries again."""

_RELEASE = re.compile(r"/v1/releases/(?P<model>[A-Za-z][A-Za-z0-9_-]{0,63})/(?P<version>[0-9]{1,9})")

_log = structlog.get_logger()


class Watcher:
    """What the watcher's handlers share.

    Raises:
        ConfigurationError: The token file cannot be used.
        DataError: The ledger cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        listening = settings.serving.model_copy(update={"host": settings.monitoring.host})
        self.hosts = allowed_hosts(settings.model_copy(update={"serving": listening}))
        named = settings.monitoring.token_file or settings.security.token_file
        usual = default_token_file(settings)
        self.access = Access(named or (usual if usual.exists() else None))
        self.registry = CollectorRegistry()
        process_collector.ProcessCollector(registry=self.registry)
        platform_collector.PlatformCollector(registry=self.registry)
        self.registry.register(WheelMetrics(settings))
        self.retrains = AlertRetrains(settings, self.registry)
        self._scraping = threading.Lock()

    def page(self) -> bytes:
        """``/metrics``; one scrape at a time."""
        with self._scraping:
            return generate_latest(self.registry)


class _Handler(BaseHTTPRequestHandler):
    """One request. Requests are few and small; each has a thread, and ten seconds between two bytes."""

    watcher: ClassVar[Watcher]
    timeout = 10
    protocol_version = "HTTP/1.1"
    server_version = "driftwheel"
    sys_version = ""

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        _log.debug("watcher.request", what=format % args)

    def _get(self) -> tuple[str, bytes]:
        path = urlsplit(self.path).path
        if path == "/metrics":
            return CONTENT_TYPE_LATEST, self.watcher.page()
        if path == "/healthz":
            return "text/plain", b"ok\n"
        if (release := _RELEASE.fullmatch(path)) is not None:
            self.watcher.access.require(Role.CONSOLE, self._authorization())
            state = release_state(self.watcher.settings, release["model"], int(release["version"]))
            return "application/json", json.dumps(asdict(state)).encode()
        raise NotFoundError(f"there is no {path} to get: /metrics, /healthz and /v1/releases/MODEL/VERSION are all")

    def _post(self) -> tuple[str, bytes]:
        path = urlsplit(self.path).path
        if path != "/v1/alerts":
            raise NotFoundError(f"there is no {path} to post to: /v1/alerts is all")
        self.watcher.access.require(Role.RETRAIN, self._authorization())
        alerts = parse_notification(self._body())
        answers = [asdict(answer) for answer in self.watcher.retrains.answer(alerts)]
        return "application/json", json.dumps({"alerts": answers}).encode()

    def _authorization(self) -> bytes:
        return self.headers.get("authorization", "").encode("latin-1")

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not length.isdecimal():
            raise UnimplementedError("a body needs a content-length; chunks are not read")
        if int(length) > MOST_BYTES:
            raise TooLargeError(f"a notification may have {MOST_BYTES} bytes, this one has {length}")
        return self.rfile.read(int(length))

    def _check_host(self) -> None:
        """As the server does: a web page whose own name leads here gives itself away by it."""
        host = self.headers.get("host", "").rpartition("]")
        name = f"{host[0]}]" if host[1] else host[2].partition(":")[0]
        allowed = self.watcher.hosts
        if allowed is not None and not any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in allowed):
            raise PermissionDeniedError(f"this server does not answer to the name {name!r}")

    def _answered(self, answer: Callable[[], tuple[str, bytes]]) -> None:
        code = 200
        try:
            self._check_host()
            kind, body = answer()
        except DriftwheelError as error:
            code, kind = _CODES.get(type(error), 500), "application/json"
            body = json.dumps({"error": error.message}).encode()
            say = _log.error if code == 500 else _log.warning
            say("watcher.refused", path=self.path, code=code, reason=error.message)
            self.close_connection = True  # what is left of its body is not the next request
        except Exception:  # noqa: BLE001 (whatever it was: it is logged, and the caller gets an answer)
            _log.exception("watcher.failed", path=self.path)
            code, kind, body = 500, "application/json", b'{"error": "the watcher failed; its log says at what"}'
            self.close_connection = True
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if code != 200:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def watching(settings: Settings) -> Generator[ThreadingHTTPServer]:
    """A watcher's server, listening; call ``serve_forever`` on it. Retrains that it started end with it.

    Raises:
        AddressInUseError: The port is taken.
        ConfigurationError: The address or the token file cannot be used.
        DataError: The ledger cannot be used.
    """
    watcher = Watcher(settings)
    if not is_loopback(settings.monitoring.host):
        close_it = "a proxy before it that speaks TLS, and a network policy"
        what = "metrics are open to all, and tokens pass in the clear"
        _log.warning("watcher.exposed", host=settings.monitoring.host, what=what, close_it=close_it)
    handler = type("Handler", (_Handler,), {"watcher": watcher})
    socket = bound(settings.monitoring.host, settings.monitoring.port)
    server = _Server(socket.getsockname()[:2], handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket
    server.server_activate()
    try:
        yield server
    finally:
        server.server_close()
        watcher.retrains.close()
