"""gRPC's health checking: for load balancers and orchestrators, open to everybody."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from driftwheel.errors import NotFoundError, RequestError, UnavailableError
from serving._proto import health_pb2 as pb
from serving.codec import Raw
from serving.service import InferenceService
from serving.transports.grpc_calls import CallContext, Method, Streaming, Unary, parsed
from serving.transports.grpc_streams import only_message

SERVICE = "grpc.health.v1.Health"

_LOOK_EVERY_S = 0.1
_SAY_AGAIN_S = 60.0
"""How often a watch hears the same status again: nothing at all for long would look like a dead stream to the front door."""

Status = pb.HealthCheckResponse.ServingStatus


class HealthGrpc:
    """The service.

    Args:
        services: Names that mean the whole server, besides the empty one; any other name means a model.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        service: InferenceService,
        services: frozenset[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._clock = clock
        self._server_names = services | {""}

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {
            f"/{SERVICE}/Check": Unary(self._check, role=None),
            f"/{SERVICE}/Watch": Streaming(self._watch, role=None),
        }

    async def _check(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        name = parsed(pb.HealthCheckRequest, message).service
        status = self._status(name)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFoundError(f"no service or model {name[:80]!r}")
        return pb.HealthCheckResponse(status=status).SerializeToString()

    async def _watch(self, requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncGenerator[bytes]:
        """The status, and again whenever it changes, until the client leaves or the server drains."""
        name = parsed(pb.HealthCheckRequest, await only_message(requests)).service
        left = asyncio.Event()
        ctx.on_disconnect(left.set)
        told, told_at = None, 0.0
        while not left.is_set():
            draining, status = self._service.draining, self._status(name)
            if status != told or self._clock() - told_at >= _SAY_AGAIN_S:
                told, told_at = status, self._clock()
                yield pb.HealthCheckResponse(status=status).SerializeToString()
            if draining:
                raise UnavailableError("the server is shutting down")
            await asyncio.sleep(_LOOK_EVERY_S)  # readiness is worked out when asked for, there is no event

    def _status(self, name: str) -> Status:
        ready = self._service.ready
        if name not in self._server_names:
            try:
                self._service.repository.model(name)
                ready = not self._service.draining
            except NotFoundError:
                return pb.HealthCheckResponse.SERVICE_UNKNOWN
            except RequestError:
                ready = False
        return pb.HealthCheckResponse.SERVING if ready else pb.HealthCheckResponse.NOT_SERVING
