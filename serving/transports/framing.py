"""gRPC's framing over HTTP/2, as its "PROTOCOL-HTTP2" and "compression" documents have it.

A message is one frame: a flag byte (1: compressed), a 4-byte big-endian length, and that many bytes.
"""

import struct
from collections.abc import Mapping

from driftwheel.errors import InvalidRequestError, TooLargeError, UnimplementedError
from serving.codec import Raw
from serving.transports.deflate import WINDOW_BITS, deflate, inflate

PREFIX = struct.Struct(">BI")
PREFIX_BYTES = PREFIX.size

ACCEPTED_ENCODINGS = b"identity,deflate,gzip"
_ENCODINGS = frozenset(name.encode() for name in WINDOW_BITS)
_WORTH_A_VIEW = 4096
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def framed(message: bytes) -> bytes:
    """A message as a frame."""
    return PREFIX.pack(0, len(message)) + message


def framed_compressed(message: bytes, encoding: bytes) -> bytes:
    """A message as a compressed frame; ``encoding`` is what ``answer_encoding`` gave."""
    packed = deflate(message, encoding.decode())
    return PREFIX.pack(1, len(packed)) + packed


def unframed(body: bytes, headers: Mapping[bytes, bytes], limit: int) -> Raw:
    """The one message of a unary call. A large one is not copied out of the body.

    Args:
        headers: Of the call; ``grpc-encoding`` tells how the message is compressed, if it is.
        limit: The most bytes of the message, compressed or not.

    Raises:
        InvalidRequestError: The body is not one whole frame, or its compression is damaged.
        UnimplementedError: It is compressed in a way that is not read here.
        TooLargeError: It is too large once decompressed.
    """
    if len(body) < PREFIX_BYTES:
        raise InvalidRequestError(f"a gRPC call must hold one message, got {len(body)} bytes")
    compressed, length = PREFIX.unpack_from(body)
    if len(body) != length + PREFIX_BYTES:
        raise InvalidRequestError(f"the gRPC frame claims {length} bytes, {len(body) - PREFIX_BYTES} came")
    message = memoryview(body)[PREFIX_BYTES:] if length >= _WORTH_A_VIEW else body[PREFIX_BYTES:]
    return inflated(message, headers.get(b"grpc-encoding", b""), limit) if compressed else message


def check_size(beginning: bytes | bytearray, limit: int) -> None:
    """Refuse a message that says itself that it is too large, before the rest of it is read.

    Raises:
        TooLargeError: It does.
    """
    if len(beginning) >= PREFIX_BYTES and (length := PREFIX.unpack_from(beginning)[1]) > limit:
        raise TooLargeError(f"the message has {length} bytes; at most {limit} are read")


def inflated(message: Raw, encoding: bytes, limit: int) -> bytes:
    """A compressed message, never inflated much past ``limit`` bytes.

    Raises:
        InvalidRequestError, UnimplementedError, TooLargeError: As ``unframed``.
    """
    name = encoding.decode("latin-1")
    if name not in WINDOW_BITS:
        shown = name[:40] or "no grpc-encoding"
        raise UnimplementedError(f"messages may be compressed with gzip or deflate, got {shown!r}")
    return inflate(message, name, limit, called="message")


def answer_encoding(headers: Mapping[bytes, bytes]) -> bytes:
    """How to compress the answer: as the client compresses, where it takes that too; else not at all (nothing)."""
    encoding = headers.get(b"grpc-encoding", b"")
    if encoding not in _ENCODINGS:
        return b""
    accepted = headers.get(b"grpc-accept-encoding", b"").split(b",")
    return encoding if any(one.strip() == encoding for one in accepted) else b""


def deadline(timeout: bytes, now: float) -> float | None:
    """When the caller stops waiting, from a ``grpc-timeout`` header; None where it is absent.

    Raises:
        InvalidRequestError: It is not 1 to 8 digits and a unit.
    """
    if not timeout:
        return None
    digits, unit = timeout[:-1], _UNITS_S.get(timeout[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise InvalidRequestError(
            f"grpc-timeout must be up to 8 digits and a unit, got {timeout.decode('latin-1')[:40]!r}"
        )
    return now + int(digits) * unit


class FrameCutter:
    """Cuts the chunks of a stream's body into messages. Holds at most one unfinished frame and the newest chunk.

    Args:
        encoding: The stream's ``grpc-encoding``.
        limit: The most bytes of one message, compressed or not.
    """

    def __init__(self, encoding: bytes, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._held = bytearray()

    def __len__(self) -> int:
        """The bytes that are held."""
        return len(self._held)

    def add(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._held += chunk

    def next_message(self) -> bytes | None:
        """The next whole message; None until more bytes come.

        Raises:
            InvalidRequestError, UnimplementedError, TooLargeError: As ``unframed``.
        """
        if len(self._held) < PREFIX_BYTES:
            return None
        check_size(self._held, self._limit)
        compressed, length = PREFIX.unpack_from(self._held)
        end = PREFIX_BYTES + length
        if len(self._held) < end:
            return None
        message = bytes(self._held[PREFIX_BYTES:end])
        del self._held[:end]
        return inflated(message, self._encoding, self._limit) if compressed else message

    def finish(self) -> None:
        """The body has ended.

        Raises:
            InvalidRequestError: In the middle of a message.
        """
        if self._held:
            raise InvalidRequestError(f"the stream ended within a message, {len(self._held)} bytes into it")
