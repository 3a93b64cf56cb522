"""The Open Inference Protocol over gRPC, with Triton's extensions. What a ModelInfer's tensors are lies in ``oip_grpc``."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from driftwheel.errors import RequestError, UnimplementedError
from serving._proto import open_inference_pb2 as pb
from serving.about import PROTOCOL_EXTENSIONS, SERVER_NAME, server_version
from serving.access import Role
from serving.codec import Raw
from serving.codes import shortened
from serving.engine import LoadedVersion
from serving.features import OnlineFeatures
from serving.model_config import model_config, model_statistics
from serving.recording import Recorder
from serving.repository import ServedModel
from serving.service import InferenceService
from serving.transports.grpc_calls import CallContext, Method, Streaming, Unary, parsed
from serving.transports.grpc_streams import pipelined
from serving.transports.oip_grpc import ModelInfer
from serving.transports.oip_response import field
from serving.transports.triton_models import (
    config_message,
    loading_version,
    model_metadata,
    model_name,
    statistics_message,
)
from serving.versions import parse_version

SERVICE = "inference.GRPCInferenceService"

_AT_ONCE = 16
"""Requests of one stream that are under way together: enough to fill a batch now and then, too few to crowd out others."""

_UNIMPLEMENTED = {
    **dict.fromkeys(
        (f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")),
        "there is no shared memory with clients: send tensors in the request",
    ),
    "TraceSetting": "tracing is set up at the server's start, not by clients",
    "LogSettings": "logging is set up at the server's start, not by clients",
}
"""Triton's methods that are not served, and why; ``PROTOCOL_EXTENSIONS`` does not name them."""


class OipGrpc:
    """The service."""

    def __init__(self, service: InferenceService, recorder: Recorder, features: OnlineFeatures | None) -> None:
        self._service = service
        self._infer = ModelInfer(service, features)
        self._repository = service.repository
        self._recorder = recorder

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        infer, admin = Role.INFER, Role.ADMIN
        methods: dict[str, Method] = {
            "ModelInfer": Unary(self._infer, infer),
            "ModelStreamInfer": Streaming(self._model_stream_infer, infer),
            "ServerLive": Unary(self._server_live, None),
            "ServerReady": Unary(self._server_ready, None),
            "ModelReady": Unary(self._model_ready, None),
            "ServerMetadata": Unary(self._server_metadata, infer),
            "ModelMetadata": Unary(self._model_metadata, infer),
            "ModelConfig": Unary(self._model_config, infer),
            "ModelStatistics": Unary(self._model_statistics, infer),
            "RepositoryIndex": Unary(self._repository_index, infer),
            "RepositoryModelLoad": Unary(self._repository_model_load, admin),
            "RepositoryModelUnload": Unary(self._repository_model_unload, admin),
            **{name: _unimplemented(name, why) for name, why in _UNIMPLEMENTED.items()},
        }
        return {f"/{SERVICE}/{name}": method for name, method in methods.items()}

    def _model_stream_infer(self, requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncGenerator[bytes]:
        """An answer to each request, in their order; an error is an answer too, and the stream goes on."""

        async def answered(message: bytes) -> bytes:
            try:
                infer_answer = await self._infer(message, ctx)
            except RequestError as error:
                return pb.ModelStreamInferResponse(error_message=shortened(error.message)).SerializeToString()
            return stream_answer(infer_answer)

        return pipelined(requests, answered, at_once=_AT_ONCE)

    async def _server_live(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        parsed(pb.ServerLiveRequest, message)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        parsed(pb.ServerReadyRequest, message)
        return pb.ServerReadyResponse(ready=self._service.ready).SerializeToString()

    async def _model_ready(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        request = parsed(pb.ModelReadyRequest, message)
        try:
            served = self._repository.model(request.name)
            served.check_up(parse_version(request.version) if request.version else None)
        except RequestError:
            return pb.ModelReadyResponse(ready=False).SerializeToString()
        return pb.ModelReadyResponse(ready=True).SerializeToString()

    async def _server_metadata(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        parsed(pb.ServerMetadataRequest, message)
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=server_version(), extensions=PROTOCOL_EXTENSIONS
        ).SerializeToString()

    async def _model_metadata(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        request = parsed(pb.ModelMetadataRequest, message)
        return model_metadata(*self._loaded(request.name, request.version)).SerializeToString()

    async def _model_config(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        request = parsed(pb.ModelConfigRequest, message)
        served, loaded = self._loaded(request.name, request.version)
        config = config_message(model_config(loaded, list(served.versions)))
        return pb.ModelConfigResponse(config=config).SerializeToString()

    async def _model_statistics(self, message: Raw, ctx: CallContext) -> bytes:
        """Of one version, of all versions of a model, or of all models."""
        del ctx
        request = parsed(pb.ModelStatisticsRequest, message)
        if request.version:
            versions = [self._loaded(request.name, request.version)[1]]
        else:
            models = [self._repository.model(request.name)] if request.name else self._repository.models()
            versions = [served.versions[version] for served in models for version in sorted(served.versions)]
        statistics = [model_statistics(v, self._recorder.statistics(v.name, v.version)) for v in versions]
        return pb.ModelStatisticsResponse(model_stats=map(statistics_message, statistics)).SerializeToString()

    async def _repository_index(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        request = parsed(pb.RepositoryIndexRequest, message)
        entries = [
            pb.RepositoryIndexResponse.ModelIndex(
                name=entry.name, version=str(entry.version), state=entry.state, reason=entry.reason
            )
            for entry in self._repository.index()
            if entry.state == "READY" or not request.ready
        ]
        return pb.RepositoryIndexResponse(models=entries).SerializeToString()

    async def _repository_model_load(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        request = parsed(pb.RepositoryModelLoadRequest, message)
        name = model_name(request)
        await self._repository.load(name, loading_version(request.parameters))
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True).SerializeToString()

    async def _repository_model_unload(self, message: Raw, ctx: CallContext) -> bytes:
        del ctx
        request = parsed(pb.RepositoryModelUnloadRequest, message)
        name = model_name(request)
        await self._repository.unload(name, loading_version(request.parameters))
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True).SerializeToString()

    def _loaded(self, name: str, version: str) -> tuple[ServedModel, LoadedVersion]:
        """The version that a request means: the one it names, or the stable one."""
        served = self._repository.model(name)
        return served, served.pinned(parse_version(version)) if version else served.stable


def stream_answer(infer_response: bytes) -> bytes:
    """A ModelStreamInferResponse around a ModelInferResponse that is in bytes already."""
    return field(_INFER_RESPONSE_TAG, infer_response)


_INFER_RESPONSE_TAG = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER << 3 | 2


def _unimplemented(name: str, why: str) -> Unary:
    async def refuse(message: Raw, ctx: CallContext) -> bytes:
        del message, ctx
        raise UnimplementedError(f"{name} is not served: {why}")

    return Unary(refuse, Role.INFER)
