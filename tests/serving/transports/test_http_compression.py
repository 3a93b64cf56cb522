"""Compressed bodies over HTTP, and those that would grow without end."""

import contextlib
import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError
from serving.transports.compression import accepted_encoding, decompressed
from serving.transports.deflate import deflate
from tests.serving.conftest import Live

BODY = json.dumps({"user_id": 15, "k": 1}).encode()


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_comes_back(body: bytes, encoding: str) -> None:
    assert decompressed(deflate(body, encoding), encoding.encode(), 2000) == body


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate", b"br", b"\xff", b""]))
def test_no_bytes_make_it_fail(body: bytes, encoding: bytes) -> None:
    with contextlib.suppress(InvalidRequestError, TooLargeError, UnsupportedMediaError):
        assert len(decompressed(body, encoding, 100)) <= max(100, len(body))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    with pytest.raises(TooLargeError, match="more than 65536 bytes once decompressed"):
        decompressed(bomb, b"gzip", 65536)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"", None),
        (b"gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip, deflate, br", "gzip"),
        (b"gzip;q=0, deflate", "deflate"),
        (b"gzip;q=0", None),
        (b"br;q=1.0, *;q=0.5", "gzip"),
        (b"identity", None),
        (b"GZIP", "gzip"),
        (b"gzip;q=x", None),
        (b"\xff;\xff,,;=", None),
    ],
)
def test_what_a_client_accepts(accept: bytes, encoding: str | None) -> None:
    assert accepted_encoding(accept) == encoding


@pytest.mark.system
@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_compressed_requests(live: Live, encoding: str, pack) -> None:
    answer = live.http.post("/v1/recommend", content=pack(BODY), headers={"content-encoding": encoding})
    assert answer.json()["items"][0]["item_id"] == 40


@pytest.mark.system
@pytest.mark.parametrize(
    ("encoding", "content", "status", "says"),
    [
        ("gzip", BODY, 400, "the request body is not gzip"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-9], 400, "cut short"),
        ("gzip", gzip.compress(BODY, mtime=0) + b"more", 400, "4 bytes after its end"),
        ("gzip", gzip.compress(b" " * 70_000, mtime=0), 413, "more than 65536 bytes once decompressed"),
        ("br", BODY, 415, "content-encoding gzip, deflate or identity, got 'br'"),
        ("gzip, gzip", BODY, 415, "got 'gzip, gzip'"),
    ],
)
def test_bodies_that_cannot_be_unpacked(live: Live, encoding: str, content: bytes, status: int, says: str) -> None:
    answer = live.http.post("/v1/recommend", content=content, headers={"content-encoding": encoding})
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    assert ("accept-encoding" in answer.headers) == (status == 415)


@pytest.mark.system
def test_long_answers_are_compressed_where_the_client_likes_it(live: Live) -> None:
    plain = live.http.get("/openapi.json", headers={"accept-encoding": "identity"})
    assert ("content-encoding" in plain.headers, plain.headers["vary"]) == (False, "accept-encoding")
    for encoding in ("gzip", "deflate"):
        with live.http.stream("GET", "/openapi.json", headers={"accept-encoding": encoding}) as answer:
            packed = b"".join(answer.iter_raw())
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == (encoding, "accept-encoding")
        assert len(packed) == int(answer.headers["content-length"]) < len(plain.content) / 3
        assert decompressed(packed, encoding.encode(), 10**6) == plain.content
    assert "content-encoding" not in live.http.get("/v2/models/mf", headers={"accept-encoding": "gzip"}).headers
