"""Streams, over a scripted front door."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from driftwheel.errors import InvalidRequestError, NotFoundError
from serving.transports.framing import framed
from serving.transports.grpc import CallContext, Streaming
from serving.transports.grpc_streams import only_message, pipelined
from tests.serving.transports.scripted import Door, Served, run, shout


def test_a_stream_of_chunks_that_cut_frames_anywhere() -> None:
    async def work() -> None:
        body = framed(b"one") + framed(b"") + framed(b"three")
        door = Door(body[:4], body[4:9], body[9:])
        await Served(Streaming(shout, None)).call(door)
        assert door.messages == [b"ONE", b"", b"THREE"]
        assert door.status["grpc-status"] == "0"

    run(work)


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (framed(b"one") + framed(b"bad"), "3", "bad came"),
        (framed(b"one") + framed(b"half")[:6], "3", "the stream ended within a message, 6 bytes into it"),
        (framed(b"one") + framed(bytes(2000))[:50], "8", "the message has 2000 bytes; at most 1000 are read"),
    ],
)
def test_an_error_midway_comes_after_the_answers_before_it(body: bytes, code: str, says: str) -> None:
    async def work() -> None:
        door = Door(body)
        served = Served(Streaming(shout, None))
        await served.call(door)
        assert door.messages == [b"ONE"]
        assert (door.status["grpc-status"], door.status["grpc-message"]) == (code, says)
        assert len(served.refusals.codes) == 1

    run(work)


def test_a_stream_is_open_before_anything_is_asked() -> None:
    async def work() -> None:
        door = Door(ends=False)
        call = asyncio.create_task(Served(Streaming(shout, None)).call(door))
        while len(door.sent) < 2:
            await asyncio.sleep(0)
        assert [event["type"] for event in door.sent] == ["http.response.start", "http.response.body"]
        assert (door.sent[1]["body"], door.sent[1]["more_body"]) == (b"", True)
        door.client_leaves()
        await call

    run(work)


def test_what_a_handler_says_besides_its_answers_comes_at_the_end() -> None:
    async def with_more(requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncIterator[bytes]:
        ctx.reply_headers = [(b"x-more", b"this")]
        yield b"one"

    async def work() -> None:
        door = Door(framed(b"x"))
        await Served(Streaming(with_more, None)).call(door)
        assert (door.status["grpc-status"], door.status["x-more"]) == ("0", "this")

    run(work)


def test_a_fault_of_ours_is_not_told_to_the_caller() -> None:
    async def fault(requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("secret")

    async def work() -> None:
        door = Door(framed(b"x"))
        served = Served(Streaming(fault, None))
        await served.call(door)
        assert door.status["grpc-status"] == "13"
        assert "secret" not in door.status["grpc-message"]
        assert served.refusals.codes == ["INTERNAL"]

    run(work)


def test_a_stream_ends_at_its_deadline() -> None:
    async def work() -> None:
        door = Door(framed(b"one"), ends=False)
        await Served(Streaming(shout, None)).call(door, (b"grpc-timeout", b"1S"))
        assert door.messages == [b"ONE"]
        assert door.status["grpc-status"] == "4"
        door.client_leaves()  # the front door answers whoever still waits
        await asyncio.sleep(0)

    run(work)


def test_a_client_that_leaves_ends_the_stream() -> None:
    async def work() -> None:
        door = Door(framed(b"one"), ends=False)
        door.client_leaves()
        await Served(Streaming(shout, None)).call(door)
        assert [event["type"] for event in door.sent][-1] == "http.response.body"  # and no trailers: nobody is there

    run(work)


def test_a_drain_ends_streams_after_what_they_have_read() -> None:
    async def work() -> None:
        door = Door(framed(b"one"), ends=False)
        served = Served(Streaming(shout, None))
        call = asyncio.create_task(served.call(door))
        while not door.messages:
            await asyncio.sleep(0)
        served.transport.drain()
        await call
        assert door.messages == [b"ONE"]
        assert door.status["grpc-status"] == "14"
        late = Door(framed(b"two"))
        await served.call(late)
        assert (late.messages, late.status["grpc-status"]) == ([], "14")
        # What a client still sends is nobody's any more, and nobody complains.
        door.client_leaves()
        await asyncio.sleep(0)

    run(work)


async def as_requests(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def test_only_message() -> None:
    async def work() -> None:
        assert await only_message(as_requests(b"one")) == b"one"
        with pytest.raises(InvalidRequestError, match="takes one message, none came"):
            await only_message(as_requests())
        with pytest.raises(InvalidRequestError, match="takes one message, more came"):
            await only_message(as_requests(b"one", b"two", b"three"))

    run(work)


def test_a_pipeline_keeps_order_and_bound() -> None:
    async def work() -> None:
        under_way = most = 0

        async def slow_first(message: bytes) -> bytes:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            for _ in range(20 - message[0]):  # the earlier, the slower
                await asyncio.sleep(0)
            under_way -= 1
            return message

        requests = [bytes([number]) for number in range(20)]
        answers = [answer async for answer in pipelined(as_requests(*requests), slow_first, at_once=4)]
        assert answers == requests
        assert most == 4

    run(work)


def test_an_error_in_a_pipeline_comes_in_its_place() -> None:
    async def work() -> None:
        async def refuse_two(message: bytes) -> bytes:
            if message == b"2":
                raise NotFoundError("two")
            return message

        answers = pipelined(as_requests(b"0", b"1", b"2", b"3"), refuse_two, at_once=3)
        assert [await anext(answers), await anext(answers)] == [b"0", b"1"]
        with pytest.raises(NotFoundError):
            await anext(answers)

    run(work)


def test_a_client_that_leaves_calls_off_its_pipeline() -> None:
    async def work() -> None:
        started, called_off = asyncio.Event(), []

        async def forever(message: bytes) -> bytes:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                called_off.append(message)
                raise
            return message

        def answer(requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncIterator[bytes]:
            return pipelined(requests, forever, at_once=4)

        door = Door(framed(b"1") + framed(b"2"), ends=False)
        call = asyncio.create_task(Served(Streaming(answer, None)).call(door))
        await started.wait()
        door.client_leaves()
        await call
        assert sorted(called_off) == [b"1", b"2"]

    run(work)
