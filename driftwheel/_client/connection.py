"""What both clients are made of: the options, and what follows from them."""

import math
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from random import SystemRandom
from typing import Any

import grpc

from driftwheel._client.calls import Call
from driftwheel._client.http import HttpConnections
from driftwheel._client.retry import Attempts, RetryBudget, RetryPolicy
from driftwheel.errors import ConfigurationError

_TIMEOUT = "x-request-timeout-ms"
"""Tells the server over HTTP what gRPC says by itself."""

_TARGET = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """An encrypted connection.

    Attributes:
        ca: Certificates (PEM) that the server's must lead to; None: those that come with gRPC and with Python.
        certificate: The client's own (PEM), where the server asks for one.
        key: The key to it.
        server_name: The name in the server's certificate, where it is not the host that is called.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Refuse half of a pair.

        Raises:
            ConfigurationError: One of certificate and key is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("a client certificate and its key go together; give both or none")

    def context(self) -> ssl.SSLContext:
        """For HTTP.

        Raises:
            ConfigurationError: A file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the TLS files cannot be used: {error}") from None
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca and self.ca.read_bytes(),
            private_key=self.key and self.key.read_bytes(),
            certificate_chain=self.certificate and self.certificate.read_bytes(),
        )


@cache
def user_agent() -> str:
    """What the client calls itself."""
    return f"driftwheel-python/{version('driftwheel')}"


class Connection:
    """One server, and how to call it; the base of both clients.

    Args:
        target: ``host:port``.
        timeout_s: How long a call may take, over all its attempts; each call can be given its own. The server is told,
            and drops what has not begun by then.
        token: A bearer token.
        token_file: A file with a bearer token in it, read again when it changes.
        plaintext_token: Send the token though the connection leaves this machine unencrypted.
        tls: None: not encrypted.
        retry: When a call is tried again.
        gzip: Compress what is sent over gRPC. Worth it on slow networks only.
        max_message_bytes: The largest message that is sent or taken.
        keepalive_s: Ping an idle gRPC connection this often, for networks that forget idle ones.
        channel_options: Further options of gRPC's, as ``grpc.insecure_channel`` takes them; they win over those above.
        headers: Called before each attempt: headers (gRPC metadata) to send along, for example a trace context.
        clock: Monotonic seconds.
        sleep: Waits so many seconds; for ``AsyncClient`` a coroutine function.
        random: Even between 0 and 1.

    Raises:
        ConfigurationError: The target is no ``host:port``, a file cannot be used, or a token would travel unencrypted.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 10.0,
        token: str | None = None,
        token_file: Path | None = None,
        plaintext_token: bool = False,
        tls: Tls | None = None,
        retry: RetryPolicy | None = None,
        gzip: bool = False,
        max_message_bytes: int = 64 * 2**20,
        keepalive_s: float | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        headers: Callable[[], Mapping[str, str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        host = _host(target)
        has_token = token is not None or token_file is not None
        if has_token and tls is None and not plaintext_token and not _is_loopback(host):
            raise ConfigurationError(
                f"the token would travel to {host} unencrypted",
                hint="give tls=Tls(...), or plaintext_token=True where the network itself is encrypted",
            )
        self._target = target
        self._timeout_s = timeout_s
        self._tls = tls
        self._compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
        self._channel_options = [
            *_channel_options(max_message_bytes, keepalive_s, tls),
            *channel_options,
        ]
        self._http = HttpConnections(
            target,
            tls=tls and tls.context(),
            server_name=tls and tls.server_name,
            max_bytes=max_message_bytes,
        )
        self._token = _TokenFile(token_file) if token_file is not None else lambda: token
        self._more_headers = headers
        self._policy = retry or RetryPolicy()
        self._budget = RetryBudget(self._policy)
        self._clock = clock
        self._random = random or SystemRandom().random
        self._sleep_given = sleep

    def _headers(self) -> dict[str, str]:
        headers = dict(self._more_headers()) if self._more_headers else {}
        if token := self._token():
            headers["authorization"] = f"Bearer {token}"
        return headers

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._headers().items())

    def _post(self, call: Call[Any], timeout_s: float) -> bytes:
        headers = {"user-agent": user_agent(), _TIMEOUT: str(math.ceil(timeout_s * 1000)), **self._headers()}
        return self._http.post(call.path, call.body, headers, timeout_s)

    def _attempts(self, call: Call[Any]) -> Attempts:
        return Attempts(
            self._policy,
            self._budget,
            safety=call.safety,
            timeout_s=self._timeout_s if call.timeout_s is None else call.timeout_s,
            clock=self._clock,
            random=self._random,
        )


class _TokenFile:
    """The token in a file, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._token = ""
        self()

    def __call__(self) -> str:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                self._token, self._stamp = self._path.read_text().strip(), stamp
        except OSError as error:
            raise ConfigurationError(f"the token file cannot be read: {error}") from None
        if not self._token:
            raise ConfigurationError(f"the token file {self._path} is empty")
        return self._token


def _host(target: str) -> str:
    found = _TARGET.fullmatch(target)
    if found is None:
        raise ConfigurationError(
            f"a target is host:port, got {target!r}", hint="no scheme and no path; encrypted with tls=Tls()"
        )
    return found["host"].strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _channel_options(max_bytes: int, keepalive_s: float | None, tls: Tls | None) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.primary_user_agent", user_agent()),
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.max_receive_message_length", max_bytes),
        # By default a server that was gone is looked for again after a second at the soonest: in vain till then all retries.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if keepalive_s is not None:
        options += [("grpc.keepalive_time_ms", int(keepalive_s * 1000)), ("grpc.keepalive_permit_without_calls", 1)]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
