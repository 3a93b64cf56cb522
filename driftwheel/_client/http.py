"""HTTP by the standard library: kept connections, each used by one thread at a time."""

import http.client
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from driftwheel._client.errors import (
    ClientError,
    DeadlineExceededError,
    TooLargeError,
    UnavailableError,
    from_status,
)

_MOST_IDLE = 16


class _ErrorJson(msgspec.Struct):
    error: str


class _TlsConnection(http.client.HTTPConnection):
    """A connection whose certificate may bear another name than the address."""

    def __init__(self, target: str, context: ssl.SSLContext, server_name: str | None) -> None:
        super().__init__(target)
        self._context = context
        self._server_name = server_name or self.host

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)


class HttpConnections:
    """Connections to one server.

    Args:
        target: ``host:port``.
        tls: None for none.
        server_name: The name in the server's certificate, where it is not the host.
        max_bytes: The longest answer.
    """

    def __init__(self, target: str, *, tls: ssl.SSLContext | None, server_name: str | None, max_bytes: int) -> None:
        self._target = target
        self._tls = tls
        self._server_name = server_name
        self._max_bytes = max_bytes
        self._idle: deque[http.client.HTTPConnection] = deque(maxlen=_MOST_IDLE)

    def close(self) -> None:
        """Close what is idle."""
        while (connection := self._take()) is not None:
            connection.close()

    def _take(self) -> http.client.HTTPConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        """Send a body, and wait for the answer's.

        Args:
            timeout_s: How long each of connecting, sending and reading may take.

        Raises:
            ClientError: There is no answer, or it is an error. ``unprocessed`` where nothing was sent.
        """
        connection = self._connected(path, timeout_s)
        try:
            connection.request("POST", path, body, {"content-type": "application/json", **headers})
            response = connection.getresponse()
            content = response.read(self._max_bytes + 1)
        except TimeoutError:
            connection.close()
            raise DeadlineExceededError("DEADLINE_EXCEEDED", f"{path}: no answer within {timeout_s:.3g} s") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise UnavailableError("UNAVAILABLE", f"{path}: {error!r} before the answer") from None
        if len(content) > self._max_bytes:
            connection.close()
            raise TooLargeError("RESOURCE_EXHAUSTED", f"{path}: the answer has more than {self._max_bytes} bytes")
        self._keep(connection)
        if response.status != HTTPStatus.OK:
            raise from_status(response.status, _message(content), response.headers.get("retry-after"))
        return content

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        if connection.sock is not None and len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connected(self, path: str, timeout_s: float) -> http.client.HTTPConnection:
        """A kept connection that the server has not closed, or a new one."""
        while (kept := self._take()) is not None:
            if _still_open(kept.sock):
                kept.sock.settimeout(timeout_s)
                return kept
            kept.close()
        connection = self._new()
        connection.timeout = timeout_s
        try:
            connection.connect()
        except TimeoutError:
            raise _not_connected(DeadlineExceededError, "DEADLINE_EXCEEDED", path, "no connection in time") from None
        except OSError as error:
            raise _not_connected(UnavailableError, "UNAVAILABLE", path, str(error)) from None
        return connection

    def _new(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._target)
        return _TlsConnection(self._target, self._tls, self._server_name)


def _not_connected(kind: type[ClientError], code: str, path: str, why: str) -> ClientError:
    return kind(code, f"{path}: {why}", unprocessed=True)


def _still_open(sock: socket.socket | None) -> bool:
    """Whether an idle connection can be used: whatever there is to read on it is its end, or no answer of ours."""
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


def _message(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=_ErrorJson).error
    except msgspec.MsgspecError:
        return content.decode("utf-8", "replace")
