"""TorchServe's inference API over gRPC: its clients need another address and nothing else."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from driftwheel.errors import UnavailableError
from serving._proto import torchserve_inference_pb2 as pb
from serving.access import Role
from serving.codec import Raw
from serving.service import InferCall, InferenceService
from serving.transports.grpc_calls import PROTOCOL, CallContext, Method, Streaming, Unary, parsed
from serving.transports.grpc_streams import only_message
from serving.transports.torchserve_codec import PREDICTION_ID_HEADER, Instances, input_of, version_of

SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"

_HEALTHY = '{\n  "status": "Healthy"\n}'
"""As TorchServe writes it."""


class TorchServeGrpc:
    """The service."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {
            f"/{SERVICE}/Ping": Unary(self._ping, role=None),
            f"/{SERVICE}/Predictions": Unary(self._predictions, Role.INFER),
            f"/{SERVICE}/StreamPredictions": Streaming(self._stream_predictions, Role.INFER),
        }

    async def _ping(self, message: Raw, ctx: CallContext) -> bytes:
        del message, ctx
        if not self._service.ready:
            raise UnavailableError("the server is not ready, or shutting down")
        return pb.TorchServeHealthResponse(health=_HEALTHY).SerializeToString()

    async def _predictions(self, message: Raw, ctx: CallContext) -> bytes:
        request = parsed(pb.PredictionsRequest, message)
        instances = Instances.parse(input_of(request.input))
        call = InferCall(
            model=request.model_name,
            decode=instances.decode,
            protocol=PROTOCOL,
            version=ctx.pin if (version := version_of(request.model_version)) is None else version,
            routing_key=ctx.routing_key,
            deadline=ctx.deadline,
            on_disconnect=ctx.on_disconnect,
        )
        answer = await self._service.infer(call)
        ctx.reply_headers = [(PREDICTION_ID_HEADER, answer.prediction_id.encode())]
        return pb.PredictionResponse(prediction=instances.predictions(answer)).SerializeToString()

    async def _stream_predictions(self, requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncGenerator[bytes]:
        """One answer, as from any handler that does not send its own in parts."""
        yield await self._predictions(await only_message(requests), ctx)
