"""Properties of the parsers by themselves."""

import contextlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.errors import RequestError
from serving.transports.binary_tensors import cut_tensors, split_body
from serving.transports.framing import FrameCutter, deadline, framed, framed_compressed, inflated, unframed
from tests.fuzz.mutations import damaged_bytes, packed, pieces

LIMIT = 4096
messages = st.binary(max_size=300)
randoms = st.randoms(use_true_random=False)


@given(sent=st.lists(messages, max_size=5), rng=randoms, encoding=st.sampled_from((b"", b"gzip", b"deflate")))
def test_a_stream_is_cut_into_the_messages_that_were_sent_however_it_comes(
    sent: list[bytes], rng: Random, encoding: bytes
):
    body = b"".join(framed_compressed(one, encoding) if encoding else framed(one) for one in sent)
    cutter, came = FrameCutter(encoding, LIMIT), []
    for chunk in pieces(rng, body):
        cutter.add(chunk)
        while (message := cutter.next_message()) is not None:
            came.append(message)
    cutter.finish()
    assert came == sent


@given(body=st.binary(max_size=64), encoding=st.sampled_from((b"", b"gzip", b"deflate", b"x", b"\xff")))
@settings(max_examples=300)
def test_a_unary_body_is_one_message_or_refused(body: bytes, encoding: bytes):
    try:
        message = unframed(body, {b"grpc-encoding": encoding}, LIMIT)
    except RequestError:
        return
    assert len(message) <= LIMIT
    assert body[0] or message == body[5:]


@given(message=messages, rng=randoms)
@settings(max_examples=300)
def test_nothing_inflates_past_the_limit(message: bytes, rng: Random):
    encoding, data = packed(rng, message)
    with contextlib.suppress(RequestError):
        assert len(inflated(data, encoding, LIMIT)) <= LIMIT


@given(timeout=st.one_of(st.binary(max_size=12), st.from_regex(rb"\A[0-9]{0,9}[HMSmun]?\Z")))
@settings(max_examples=500)
def test_a_timeout_is_a_time_to_come_or_refused(timeout: bytes):
    try:
        expires = deadline(timeout, 1000.0)
    except RequestError:
        return
    assert (expires is None) == (timeout == b"")
    assert expires is None or 1000.0 <= expires <= 1000.0 + 99_999_999 * 3600


@given(
    head=messages,
    tail=messages,
    length=st.one_of(st.binary(max_size=12), st.integers(-5, 700).map(lambda n: str(n).encode())),
)
@settings(max_examples=300)
def test_a_body_is_cut_where_the_header_says_or_refused(head: bytes, tail: bytes, length: bytes):
    body = head + tail
    try:
        text, rest = split_body(body, length)
    except RequestError:
        return
    assert text + rest == body
    assert len(text) == (int(length) if length else len(body))


@given(
    tail=messages,
    sizes=st.lists(
        st.one_of(st.integers(-2, 400), st.none(), st.booleans(), st.text(max_size=2), st.floats()), max_size=4
    ),
)
@settings(max_examples=300)
def test_tensors_are_the_whole_tail_or_refused(tail: bytes, sizes: list[object]):
    parameters = [(f"input-{n}", {} if size is None else {"binary_data_size": size}) for n, size in enumerate(sizes)]
    try:
        cut = cut_tensors(tail, parameters)
    except RequestError:
        return
    assert b"".join(cut.values()) == tail


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_the_same_for_the_same_seed(seed: int):
    first, again = (damaged_bytes(Random(seed), b"some bytes") for _ in range(2))  # noqa: S311 (no secret)
    assert first == again
