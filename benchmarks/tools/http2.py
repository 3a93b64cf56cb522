"""A client's side of HTTP/2 (RFC 9113), bare enough to be cheap: one gRPC call, over and over, on one connection.

A general client library costs more for each call than the servers that it would measure. This one sends frames that are
built once, and reads of the answers only what it must: how many bytes came, and when the stream ended.
"""

import socket
import struct
from collections import deque

from benchmarks.tools.messages import Call

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_LARGEST_FRAME = 16_384

_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW = 1, 2, 3, 4


class Http2Connection:
    """One connection that repeats one call.

    Windows for what comes are opened as far as they go at the start; for what goes, the server's are honoured: a call that
    finds no room waits here, in order.

    Raises:
        RuntimeError: In any method, where the server closes the connection or asks for what is not supported here.
    """

    def __init__(self, host: str, port: int, call: Call) -> None:
        self._first_headers, self._headers = _header_blocks(f"{host}:{port}", call.path)
        self._body = call.body
        self._next_stream = 1
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._max_streams = 0
        self._settled = False
        """Whether the server's settings are here."""
        self._active: dict[int, list[float]] = {}
        """For each open stream: when its call was due, and how many bytes of answer have come."""
        self._waiting: deque[float] = deque()
        self._in = bytearray()
        self.out = bytearray()
        self.socket = socket.create_connection((host, port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW, _LARGEST_WINDOW)
        grow = struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW)
        self.out += _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, grow)
        self.flush()
        while not self._settled:
            self._feed(self.socket.recv(65_536), [])
        self.flush()
        self.socket.setblocking(False)

    @property
    def unanswered(self) -> int:
        """Calls sent or waiting whose answer is not here."""
        return len(self._active) + len(self._waiting)

    def start(self, due: float) -> None:
        """Begin a call that was due at a moment; ``flush`` sends it."""
        self._waiting.append(due)
        self._pump()

    def flush(self) -> bool:
        """Send what can be sent now; whether something is left."""
        while self.out:
            try:
                sent = self.socket.send(self.out)
            except BlockingIOError:
                return True
            del self.out[:sent]
        return False

    def receive(self) -> list[tuple[float, int]]:
        """Read what has come: for each call that ended, when it was due, and how many bytes of answer it brought; -1 bytes
        where the server reset it.
        """
        try:
            data = self.socket.recv(262_144)
        except BlockingIOError:
            return []
        ended: list[tuple[float, int]] = []
        self._feed(data, ended)
        self._pump()
        return ended

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def _pump(self) -> None:
        size = len(self._body)
        while self._waiting and len(self._active) < self._max_streams and self._window >= size:
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            self._active[stream] = [self._waiting.popleft(), 0]
            self._window -= size
            headers, self._first_headers = self._first_headers or self._headers, b""
            self.out += _frame(_HEADERS, _END_HEADERS, stream, headers)
            for start in range(0, size, _LARGEST_FRAME):
                chunk = self._body[start : start + _LARGEST_FRAME]
                self.out += _frame(_DATA, _END_STREAM if start + len(chunk) == size else 0, stream, chunk)

    def _feed(self, data: bytes, ended: list[tuple[float, int]]) -> None:
        if not data:
            raise RuntimeError("the server closed the connection")
        self._in += data
        buffer, start = self._in, 0
        while len(buffer) - start >= 9:
            length = int.from_bytes(buffer[start : start + 3], "big")
            if len(buffer) - start - 9 < length:
                break
            kind, flags = buffer[start + 3], buffer[start + 4]
            stream = int.from_bytes(buffer[start + 5 : start + 9], "big")
            start += 9
            if kind <= _HEADERS:
                call = self._active[stream]
                if kind == _DATA:
                    call[1] += length
                if flags & _END_STREAM:
                    del self._active[stream]
                    ended.append((call[0], int(call[1])))
            elif kind == _RST_STREAM:
                # After a whole answer a server may reset the stream (NO_ERROR); it has ended already then.
                if call := self._active.pop(stream, None):
                    ended.append((call[0], -1))
            else:
                self._control(kind, flags, stream, bytes(buffer[start : start + length]))
            start += length
        del buffer[:start]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _PING and not flags & _ACK:
            self.out += _frame(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._apply(dict(struct.iter_unpack(">HI", payload)))
            self.out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _GOAWAY:
            raise RuntimeError(f"the server sent GOAWAY: {payload!r}")

    def _apply(self, settings: dict[int, int]) -> None:
        self._settled = True
        self._max_streams = settings.get(_MAX_STREAMS, self._max_streams or 2**31)
        self._stream_window = settings.get(_INITIAL_WINDOW, self._stream_window)
        if self._stream_window < len(self._body) or settings.get(_HEADER_TABLE_SIZE, 4096) < 4096:
            raise RuntimeError(f"the server's settings {settings} are too small for this client")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header_blocks(authority: str, path: str) -> tuple[bytes, bytes]:
    """HPACK (RFC 7541): the first request's headers, which enter the server's table, and the later ones' references."""
    # Literals with incremental indexing; names from the static table: :path 4, :authority 1, content-type 31.
    literals = b"".join(
        name + _text(value)
        for name, value in (
            (b"\x44", path),
            (b"\x41", authority),
            (b"\x5f", "application/grpc"),
            (b"\x40" + _text("te"), "trailers"),
        )
    )
    fixed = b"\x83\x86"  # :method POST, :scheme http
    return fixed + literals, fixed + bytes(0x80 | index for index in (65, 64, 63, 62))


def _text(value: str) -> bytes:
    if len(value) > 126:
        raise ValueError(f"{value!r} is too long for a one-byte length")
    return bytes((len(value),)) + value.encode()
