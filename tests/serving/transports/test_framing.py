"""gRPC's frames, whole and in pieces."""

import contextlib
import gzip
import re
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import InvalidRequestError, RequestError, TooLargeError, UnimplementedError
from serving._proto import open_inference_pb2 as pb
from serving.transports.framing import (
    FrameCutter,
    answer_encoding,
    deadline,
    framed,
    framed_compressed,
    unframed,
)
from serving.transports.grpc_calls import parsed

LIMIT = 1000
GZIP, DEFLATE = {b"grpc-encoding": b"gzip"}, {b"grpc-encoding": b"deflate"}


def frame(message: bytes, *, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


@pytest.mark.parametrize(
    ("body", "encoding", "kind", "says"),
    [
        (b"", b"", InvalidRequestError, "a gRPC call must hold one message, got 0 bytes"),
        (b"\0\0\0\0\x09abc", b"", InvalidRequestError, "the gRPC frame claims 9 bytes, 3 came"),
        (b"\0\0\0\0\x02abc", b"", InvalidRequestError, "the gRPC frame claims 2 bytes, 3 came"),
        (b"\1\0\0\0\x03abc", b"br", UnimplementedError, "compressed with gzip or deflate, got 'br'"),
        (b"\1\0\0\0\x03abc", b"", UnimplementedError, "got 'no grpc-encoding'"),
        (b"\1\0\0\0\x03abc", b"gzip", InvalidRequestError, "the message is not gzip"),
        (frame(gzip.compress(b"x" * 999, mtime=0)[:20], compressed=1), b"gzip", InvalidRequestError, "cut short"),
    ],
)
def test_bytes_that_are_no_frame_are_refused(body: bytes, encoding: bytes, kind: type, says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        unframed(body, {b"grpc-encoding": encoding}, LIMIT)


def test_a_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(50_000))
    assert len(bomb) < LIMIT
    with pytest.raises(TooLargeError, match="more than 1000 bytes once decompressed"):
        unframed(frame(bomb, compressed=1), GZIP, LIMIT)
    with pytest.raises(TooLargeError, match="more than 1000 bytes once decompressed"):
        cut([frame(bomb, compressed=1)], b"gzip")


@given(st.binary(max_size=500))
def test_a_whole_frame_is_read_back(message: bytes) -> None:
    assert unframed(framed(message), {}, LIMIT) == message
    for encoding in (b"gzip", b"deflate"):
        assert unframed(framed_compressed(message, encoding), {b"grpc-encoding": encoding}, LIMIT) == message
    assert unframed(frame(gzip.compress(message), compressed=1), GZIP, LIMIT) == message
    assert unframed(frame(zlib.compress(message), compressed=1), DEFLATE, LIMIT) == message


def cut(chunks: list[bytes], encoding: bytes = b"") -> list[bytes]:
    cutter = FrameCutter(encoding, LIMIT)
    messages = []
    for chunk in chunks:
        cutter.add(chunk)
        while (message := cutter.next_message()) is not None:
            messages.append(message)
    cutter.finish()
    return messages


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 17))
def test_a_stream_is_cut_alike_however_it_is_chunked(messages: list[bytes], size: int) -> None:
    body = b"".join(map(framed, messages))
    assert cut([body[at : at + size] for at in range(0, len(body), size)]) == messages


def test_a_stream_that_ends_within_a_message_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="ended within a message, 7 bytes into it"):
        cut([framed(b"whole"), framed(b"half")[:7]])


def test_a_large_message_of_a_stream_is_refused_before_it_is_there() -> None:
    with pytest.raises(TooLargeError, match="the message has 1001 bytes; at most 1000 are read"):
        cut([frame(bytes(1001))[:20]])


@given(st.binary(max_size=200), st.sampled_from([b"", b"gzip", b"deflate", b"br"]))
def test_no_bytes_make_the_parsers_fail_otherwise(message: bytes, encoding: bytes) -> None:
    with contextlib.suppress(InvalidRequestError):
        parsed(pb.ModelInferRequest, message)
    with contextlib.suppress(RequestError):
        unframed(message, {b"grpc-encoding": encoding}, 100)
    with contextlib.suppress(RequestError):
        cut([message], encoding)


@pytest.mark.parametrize(
    ("encoding", "accepted", "answered"),
    [
        (b"gzip", b"identity, deflate, gzip", b"gzip"),
        (b"deflate", b"identity,deflate", b"deflate"),
        (b"gzip", b"identity", b""),
        (b"gzip", b"", b""),
        (b"br", b"br,gzip", b""),
        (b"", b"gzip", b""),
    ],
)
def test_answers_are_compressed_as_requests_are(encoding: bytes, accepted: bytes, answered: bytes) -> None:
    assert answer_encoding({b"grpc-encoding": encoding, b"grpc-accept-encoding": accepted}) == answered


@pytest.mark.parametrize(
    ("header", "seconds"), [(b"5S", 5), (b"250m", 0.25), (b"99999999n", 0.099999999), (b"1H", 3600)]
)
def test_grpc_timeout(header: bytes, seconds: float) -> None:
    assert deadline(header, 100.0) == pytest.approx(100 + seconds)


@pytest.mark.parametrize("header", [b"soon", b"5", b"S", b"-5S", b"123456789S", b"5s"])
def test_a_grpc_timeout_of_another_form_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="grpc-timeout must be"):
        deadline(header, 0.0)
