"""Calls with many messages: read as they come, answered with the front door's backpressure, ended by a drain."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar, cast

from driftwheel.errors import DeadlineExceededError, InvalidRequestError, UnavailableError
from serving.transports.asgi import ClientGoneError, Headers, Receive, Scope, Send, UnfinishedBytes
from serving.transports.framing import FrameCutter, deadline, framed
from serving.transports.grpc_calls import CallContext, Streaming
from serving.transports.grpc_status import OK, OK_TRAILERS, START
from serving.versions import ARM_HEADER, ROUTING_KEY_HEADER, parse_pin

T = TypeVar("T")


class _Reader:
    """The messages of one stream, in order.

    Args:
        limit: The most bytes of one message.
        unfinished: Shared by all that read requests.
    """

    def __init__(self, receive: Receive, ctx: CallContext, limit: int, unfinished: UnfinishedBytes) -> None:
        self._receive = receive
        self._ctx = ctx
        self._unfinished = unfinished
        self._cutter = FrameCutter(ctx.header(b"grpc-encoding"), limit)
        self._waiting: asyncio.Future[dict[str, Any]] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Read no more: whoever asks for the next message is told that the server drains."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def messages(self) -> AsyncGenerator[bytes]:
        """Raises:
        InvalidRequestError, TooLargeError, UnimplementedError: The stream is not made of whole messages that fit.
        ClientGoneError: The client went away.
        UnavailableError: ``stop`` was called.
        OverloadedError: All messages that are still arriving hold too much.
        """
        more, held = True, 0
        try:
            while more:
                event = await self._next_event()
                if event["type"] != "http.request":
                    raise ClientGoneError
                self._cutter.add(event.get("body", b""))
                while (message := self._cutter.next_message()) is not None:
                    yield message
                self._unfinished.take(len(self._cutter) - held)
                held = len(self._cutter)
                more = event.get("more_body", False)
        finally:
            self._unfinished.give(held)
        self._cutter.finish()
        self._ctx.request_ended(self._receive)

    async def _next_event(self) -> dict[str, Any]:
        if not self._stopped:
            # Shielded: the front door sets the result of a cancelled wait all the same, and complains.
            self._waiting = asyncio.shield(asyncio.ensure_future(self._receive()))
            try:
                return await self._waiting
            except asyncio.CancelledError:
                if not self._stopped:
                    raise
            finally:
                self._waiting = None
        raise UnavailableError("the server is shutting down: call again, and another one answers")


class _Writer:
    """The answers of one stream. Every method raises ClientGoneError where the client has gone away."""

    def __init__(self, send: Send, ctx: CallContext) -> None:
        self._send_event = send
        self._ctx = ctx

    async def open(self) -> None:
        """Send the headers: some clients wait for them before they ask, and the front door counts a call as answered from
        there on, so that a long stream is no slow request to it.
        """
        await self._send(START)
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def message(self, message: bytes) -> None:
        """Send one answer; returns once the front door has room for the next."""
        await self._send({"type": "http.response.body", "body": framed(message), "more_body": True})

    async def close(self, trailers: Headers) -> None:
        """End with a status, and with what the handler wanted in the headers, which have gone out before it ran."""
        more = self._ctx.reply_headers or []
        await self._send({"type": "http.response.body", "body": b""})
        await self._send({**OK_TRAILERS, "headers": [*trailers, *more]})

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            await self._send_event(event)
        except OSError:  # what ASGI has for a client that has gone
            raise ClientGoneError from None


class Streams:
    """Runs the streaming calls, and ends them when the server drains.

    Args:
        limit: The most bytes of one message.
        failed: From an error and the call's path to the trailers that tell of it.
        unfinished: Shared by all that read requests.
    """

    def __init__(self, limit: int, failed: Callable[[Exception, str], Headers], unfinished: UnfinishedBytes) -> None:
        self._limit = limit
        self._unfinished = unfinished
        self._failed = failed
        self._readers: set[_Reader] = set()
        self._draining = False

    def drain(self) -> None:
        """Have every stream answer what it has read, and then end; new ones end at once."""
        self._draining = True
        for reader in self._readers:
            reader.stop()

    async def run(self, method: Streaming, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        ctx = CallContext(None, scope["headers"])
        reader, writer = _Reader(receive, ctx, self._limit, self._unfinished), _Writer(send, ctx)
        self._readers.add(reader)
        if self._draining:
            reader.stop()
        with contextlib.suppress(ClientGoneError):
            try:
                await writer.open()
                ctx.deadline = deadline(ctx.header(b"grpc-timeout"), time.monotonic())
                if arm := ctx.header(ARM_HEADER):
                    ctx.pin = parse_pin(arm)
                ctx.routing_key = ctx.header(ROUTING_KEY_HEADER) or None
                await _answer(method, reader, writer, ctx)
                await writer.close(OK)
            except ClientGoneError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever it was, the caller hears of it, and the server goes on)
                await writer.close(self._failed(error, scope["path"]))
            finally:
                self._readers.discard(reader)
                if ctx.departure is not None:
                    ctx.departure.forget()


async def _answer(method: Streaming, reader: _Reader, writer: _Writer, ctx: CallContext) -> None:
    try:
        async with (
            asyncio.timeout(None if ctx.deadline is None else ctx.deadline - time.monotonic()),
            contextlib.aclosing(reader.messages()) as requests,
            contextlib.aclosing(cast("AsyncGenerator[bytes]", method.handler(requests, ctx))) as answers,
        ):
            async for answer in answers:
                await writer.message(answer)
    except TimeoutError:
        raise DeadlineExceededError("the deadline of the stream passed") from None


async def only_message(requests: AsyncIterator[bytes]) -> bytes:
    """The request of a method that takes one, and answers many.

    Raises:
        InvalidRequestError: There is none, or there are several.
    """
    only: bytes | None = None
    async for message in requests:
        if only is not None:
            raise InvalidRequestError("this method takes one message, more came")
        only = message
    if only is None:
        raise InvalidRequestError("this method takes one message, none came")
    return only


async def pipelined(
    requests: AsyncIterator[bytes], work: Callable[[bytes], Coroutine[Any, Any, T]], *, at_once: int
) -> AsyncGenerator[T]:
    """What ``work`` makes of each request, in their order, with at most ``at_once`` of them under way or waiting to be sent.

    An error of ``work`` or of the requests comes after the answers to what came before it; a client that goes away
    cancels all that is under way.
    """
    room = asyncio.Semaphore(at_once)
    under_way: asyncio.Queue[asyncio.Task[T] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[Any]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.create_task(work(request))
                tasks.add(task)
                under_way.put_nowait(task)
        except ClientGoneError:
            _cancel(tasks)
            raise
        finally:
            under_way.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await under_way.get()) is not None:
            await asyncio.wait({task})
            if task.cancelled():
                break
            yield task.result()
            tasks.discard(task)
            room.release()
        await reading
    finally:
        tasks.add(reading)
        _cancel(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
