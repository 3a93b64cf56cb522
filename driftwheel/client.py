"""A client for a Driftwheel server, blocking (``Client``) and asynchronous (``AsyncClient``).

Example::

    with Client("127.0.0.1:8080") as client:
        answer = client.infer("mf", {"user_id": np.array([15]), "item_id": np.array([318])})
        client.feedback([(answer.prediction_id, 0, 4.5)])

Both have the same methods; what each takes, sends and answers is said once, in ``driftwheel/_client/calls.py``. Here is
only how the bytes travel.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import cached_property, partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_args

import grpc
import grpc.aio

from driftwheel._client import calls, recommending
from driftwheel._client.answers import (
    ChurnAnswer,
    ClientAnswer,
    ModelMetadata,
    Recommendation,
    RecommendedItem,
    ServerMetadata,
    TensorMetadata,
    VersionState,
)
from driftwheel._client.calls import Call
from driftwheel._client.connection import Connection, Tls
from driftwheel._client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServerFaultError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    from_rpc,
)
from driftwheel._client.recommending import Question
from driftwheel._client.retry import Attempts, RetryPolicy

__all__ = [
    "AsyncClient",
    "ChurnAnswer",
    "Client",
    "ClientAnswer",
    "ClientError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "ModelMetadata",
    "NotFoundError",
    "OverloadedError",
    "PendingAnswer",
    "PermissionDeniedError",
    "Question",
    "Recommendation",
    "RecommendedItem",
    "RetryPolicy",
    "ServerFaultError",
    "ServerMetadata",
    "TensorMetadata",
    "Tls",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "VersionState",
]

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """A call under way."""

    def __init__(self, finish: Callable[[], T]) -> None:
        self._finish = finish

    def result(self) -> T:
        """Wait for the answer, through the attempts that are still to come.

        Raises:
            ClientError: The server refused or failed.
        """
        return self._finish()


PendingAnswer = Pending[ClientAnswer]


def _as_method(method: Callable[..., Any], build: Callable[..., Any]) -> None:
    """Give a method the parameters and documentation of the function that builds its call."""
    signature = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    (answer,) = get_args(signature.return_annotation)
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own, *signature.parameters.values()], return_annotation=answer
    )


def _blocking(build: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    @wraps(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(build(*args, **kwargs))

    _as_method(method, build)
    return method


def _starting(build: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], Pending[T]]":
    @wraps(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        return self.start(build(*args, **kwargs))

    _as_method(method, build)
    return method


def _awaitable(build: Callable[P, Call[T]]) -> "Callable[Concatenate[AsyncClient, P], Awaitable[T]]":
    @wraps(build)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(build(*args, **kwargs))

    _as_method(method, build)
    return method


class Client(Connection):
    """A connection to one server. Threads may share it. Every method raises ``ClientError``, by its kinds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._channel.close()
        self._http.close()

    @cached_property
    def _channel(self) -> grpc.Channel:
        options, compression = self._channel_options, self._compression
        if self._tls is None:
            return grpc.insecure_channel(self._target, options, compression)
        return grpc.secure_channel(self._target, self._tls.credentials(), options, compression)

    def run(self, call: Call[T]) -> T:
        """Make a call and wait for its answer."""
        attempts = self._attempts(call)
        return self._finish(call, attempts, partial(self._send, call, attempts))

    def start(self, call: Call[T]) -> Pending[T]:
        """Make a gRPC call without waiting for its answer."""
        attempts = self._attempts(call)
        method: Any = self._channel.unary_unary(call.path)
        future = method.future(call.body, timeout=attempts.remaining_s(), metadata=self._metadata())
        return Pending(lambda: self._finish(call, attempts, future.result))

    def _finish(self, call: Call[T], attempts: Attempts, send: Callable[[], bytes]) -> T:
        while True:
            try:
                return call.answer(send())
            except grpc.RpcError as error:
                pause_s = attempts.pause_after(from_rpc(error))
            except ClientError as error:
                pause_s = attempts.pause_after(error)
            (self._sleep_given or time.sleep)(pause_s)
            send = partial(self._send, call, attempts)

    def _send(self, call: Call[Any], attempts: Attempts) -> bytes:
        if call.protocol == "http":
            return self._post(call, attempts.remaining_s())
        method: Any = self._channel.unary_unary(call.path)
        return method(call.body, timeout=attempts.remaining_s(), metadata=self._metadata())

    infer = _blocking(calls.infer)
    start_infer = _starting(calls.infer)
    recommend = _blocking(recommending.recommend)
    recommend_batch = _blocking(recommending.recommend_batch)
    churn = _blocking(calls.churn)
    feedback = _blocking(calls.feedback)
    live = _blocking(calls.live)
    ready = _blocking(calls.ready)
    model_ready = _blocking(calls.model_ready)
    server_metadata = _blocking(calls.server_metadata)
    metadata = _blocking(calls.metadata)
    index = _blocking(calls.index)
    versions = _blocking(calls.versions)
    load = _blocking(calls.load)
    unload = _blocking(calls.unload)


class AsyncClient(Connection):
    """``Client`` for an event loop. Cancelling a call cancels it on the server too, where it travels over gRPC."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections."""
        await self._channel.close()
        self._http.close()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        options, compression = self._channel_options, self._compression
        if self._tls is None:
            return grpc.aio.insecure_channel(self._target, options, compression)
        return grpc.aio.secure_channel(self._target, self._tls.credentials(), options, compression)

    async def run(self, call: Call[T]) -> T:
        """Make a call and wait for its answer."""
        attempts = self._attempts(call)
        while True:
            try:
                return call.answer(await self._send(call, attempts))
            except grpc.RpcError as error:
                pause_s = attempts.pause_after(from_rpc(error))
            except ClientError as error:
                pause_s = attempts.pause_after(error)
            await (self._sleep_given or asyncio.sleep)(pause_s)

    async def _send(self, call: Call[Any], attempts: Attempts) -> bytes:
        if call.protocol == "http":
            return await asyncio.to_thread(self._post, call, attempts.remaining_s())
        method: Any = self._channel.unary_unary(call.path)
        return await method(call.body, timeout=attempts.remaining_s(), metadata=self._metadata())

    infer = _awaitable(calls.infer)
    recommend = _awaitable(recommending.recommend)
    recommend_batch = _awaitable(recommending.recommend_batch)
    churn = _awaitable(calls.churn)
    feedback = _awaitable(calls.feedback)
    live = _awaitable(calls.live)
    ready = _awaitable(calls.ready)
    model_ready = _awaitable(calls.model_ready)
    server_metadata = _awaitable(calls.server_metadata)
    metadata = _awaitable(calls.metadata)
    index = _awaitable(calls.index)
    versions = _awaitable(calls.versions)
    load = _awaitable(calls.load)
    unload = _awaitable(calls.unload)
