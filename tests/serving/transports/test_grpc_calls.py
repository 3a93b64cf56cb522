"""Single calls, over a scripted front door."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.errors import OverloadedError
from serving.access import Role
from serving.transports.framing import framed, framed_compressed
from serving.transports.grpc import CallContext, Streaming, Unary
from tests.serving.transports.scripted import Door, Served, echo, run, shout


def test_a_waiting_call_hears_that_its_client_left() -> None:
    async def work() -> None:
        waits = asyncio.get_running_loop().create_future()

        async def wait(message: bytes, ctx: CallContext) -> bytes:
            ctx.on_disconnect(waits.cancel)
            return await waits

        door = Door(framed(b"x"))
        call = asyncio.create_task(Served(Unary(wait, None)).call(door))
        await asyncio.sleep(0)
        door.client_leaves()
        await call
        assert waits.cancelled()
        assert door.sent == []

    run(work)


def test_a_call_that_is_answered_is_watched_no_more() -> None:
    async def work() -> None:
        told: list[str] = []
        answered = asyncio.Event()

        async def wait(message: bytes, ctx: CallContext) -> bytes:
            ctx.on_disconnect(lambda: told.append("left"))
            await answered.wait()
            return message

        door = Door(framed(b"x"))
        door.body_ended()
        call = asyncio.create_task(Served(Unary(wait, None)).call(door))
        await asyncio.sleep(0.1)  # long enough for some looks, none of which finds the client gone
        answered.set()
        await call
        door.client_leaves()
        await asyncio.sleep(0.1)
        assert (door.messages, told) == ([b"x"], [])

    run(work)


def test_a_cancelled_task_stays_cancelled() -> None:
    async def work() -> None:
        async def wait(message: bytes, ctx: CallContext) -> bytes:
            await asyncio.Event().wait()
            return message

        call = asyncio.create_task(Served(Unary(wait, None)).call(Door(framed(b"x"))))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(work)


def test_answers_are_compressed_for_those_who_compress() -> None:
    async def work() -> None:
        accepted = (b"grpc-accept-encoding", b"identity, gzip")
        door = Door(framed_compressed(b"x" * 500, b"gzip"))
        await Served(Unary(echo, None)).call(door, (b"grpc-encoding", b"gzip"), accepted)
        start, body, _ = door.sent
        assert dict(start["headers"])[b"grpc-encoding"] == b"gzip"
        assert (body["body"][0], len(body["body"]) < 100) == (1, True)
        plain = Door(framed(b"x" * 500))
        await Served(Unary(echo, None)).call(plain, (b"grpc-encoding", b"gzip"), accepted)
        assert plain.messages == [b"x" * 500]
        unknown = Door(b"\1" + framed(b"x")[1:])
        await Served(Unary(echo, None)).call(unknown, (b"grpc-encoding", b"snappy"))
        assert unknown.status["grpc-status"] == "12"
        assert unknown.status["grpc-accept-encoding"] == "identity,deflate,gzip"

    run(work)


def test_a_refusal_reads_no_body() -> None:
    async def work() -> None:
        async def receive() -> dict[str, Any]:
            raise AssertionError("the body was read")

        door = Door()
        door.receive = receive
        for method in (Unary(echo, Role.ADMIN), Streaming(shout, Role.ADMIN)):
            served = Served(method)
            await served.call(door)
            assert door.status["grpc-status"] == "7"
            assert served.refusals.codes == ["PERMISSION_DENIED"]

    run(work)


@pytest.mark.parametrize("content_type", [b"application/grpc-web+proto", b"application/grpc+json", b"text/plain"])
def test_other_content_types_are_refused_in_http(content_type: bytes) -> None:
    async def work() -> None:
        door = Door(framed(b"x"))
        await Served(Unary(echo, None)).call(door, (b"content-type", content_type))
        assert door.sent[0]["status"] == 415
        assert b"application/grpc+proto" in door.sent[1]["body"]

    run(work)


def test_pushback_tells_when_to_try_again() -> None:
    async def full(message: bytes, ctx: CallContext) -> bytes:
        raise OverloadedError("full", retry_after_s=0.25)

    async def work() -> None:
        door = Door(framed(b"x"))
        served = Served(Unary(full, None))
        await served.call(door)
        assert (door.status["grpc-status"], door.status["grpc-retry-pushback-ms"]) == ("8", "250")
        assert served.refusals.codes == []  # the service counts what it has seen

    run(work)


@settings(deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=30), min_size=1, max_size=4),
    encoding=st.sampled_from([b"", b"gzip", b"deflate", b"br"]),
    timeout=st.sampled_from([b"", b"1S", b"-", b"9" * 9]),
    method=st.sampled_from([Unary(echo, None), Streaming(shout, None)]),
)
def test_whatever_comes_is_answered_with_a_status(
    chunks: list[bytes], encoding: bytes, timeout: bytes, method: Unary | Streaming
) -> None:
    async def work() -> None:
        door = Door(*chunks)
        await Served(method).call(door, (b"grpc-encoding", encoding), (b"grpc-timeout", timeout))
        assert door.status["grpc-status"] in ("0", "3", "8", "12")

    run(work)
