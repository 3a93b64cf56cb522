"""Reads ahead on the worker's socket: TorchServe reads each length and each value of a batch with a system call of its own,
some fifteen for a request.
"""

import sys
from typing import Any, Protocol, cast

_AHEAD = 65_536


class Connection(Protocol):
    """A connected socket."""

    def recv(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none once the other end has closed."""
        ...


class ReadAhead:
    """What TorchServe's ``_retrieve_buffer`` is, but that it takes from the socket what is there."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._bytes = b""
        self._at = 0

    def __call__(self, connection: Connection, length: int) -> bytes:
        """The next ``length`` bytes. Ends the worker, as TorchServe's does, when its frontend has gone."""
        if connection is not self._connection:
            self._connection, self._bytes, self._at = connection, b"", 0
        end = self._at + length
        if end > len(self._bytes):
            self._read(connection, length)
            end = length
        start, self._at = self._at, end
        return self._bytes[start:end]

    def _read(self, connection: Connection, length: int) -> None:
        parts = [self._bytes[self._at :]]
        missing = length - len(parts[0])
        while missing > 0:
            came = connection.recv(max(missing, _AHEAD))
            if not came:
                sys.exit(0)
            parts.append(came)
            missing -= len(came)
        self._bytes, self._at = b"".join(parts), 0


def read_ahead() -> None:
    """Have this worker read so from now on; without effect where no worker of TorchServe runs the handler.

    The frontend sends nothing more before the model has been loaded, so nothing that it sent is lost between the two.
    """
    if (protocol := cast("Any", sys.modules.get("ts.protocol.otf_message_handler"))) is not None:
        protocol._retrieve_buffer = ReadAhead()  # noqa: SLF001 (TorchServe is archived: its worker stays as it is)
