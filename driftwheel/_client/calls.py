"""Every call as data: what is sent where, how its answer is read, and what a second copy of it would do. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from driftwheel._client import tensors as wire
from driftwheel._client.answers import (
    ChurnAnswer,
    ClientAnswer,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
    VersionState,
)
from driftwheel._client.errors import ServerFaultError
from driftwheel._client.retry import Safety
from serving._proto import open_inference_pb2 as pb

T = TypeVar("T")
M = TypeVar("M", bound=Message)

Label = tuple[str, int, float]
"""Prediction id, row, label."""

_SERVICE = "/inference.GRPCInferenceService/"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        path: The gRPC method, or the HTTP path that is posted to.
        body: One message, or one JSON document.
        read: The answer from its bytes.
        timeout_s: None: the client's.
    """

    protocol: Literal["grpc", "http"]
    path: str
    body: bytes
    read: Callable[[bytes], T]
    safety: Safety
    timeout_s: float | None

    def answer(self, body: bytes) -> T:
        """The answer.

        Raises:
            ServerFaultError: The bytes are none.
        """
        try:
            return self.read(body)
        except (DecodeError, msgspec.MsgspecError, ValueError, KeyError) as error:
            raise ServerFaultError("INTERNAL", f"{self.path} answered with something else: {error}") from None


def rpc(
    path: str,
    request: Message,
    kind: type[M],
    read: Callable[[M], T],
    *,
    timeout_s: float | None,
    safety: Safety = Safety.REPEATABLE,
) -> Call[T]:
    """A gRPC call from its messages."""

    def read_bytes(body: bytes) -> T:
        return read(kind.FromString(body))

    return Call("grpc", path, request.SerializeToString(), read_bytes, safety, timeout_s)


def _oip(
    method: str,
    request: Message,
    kind: type[M],
    read: Callable[[M], T],
    *,
    timeout_s: float | None,
    safety: Safety = Safety.REPEATABLE,
) -> Call[T]:
    return rpc(_SERVICE + method, request, kind, read, timeout_s=timeout_s, safety=safety)


def _post(
    path: str,
    body: Mapping[str, object],
    read: Callable[[bytes], T],
    *,
    timeout_s: float | None,
    safety: Safety = Safety.REPEATABLE,
) -> Call[T]:
    given = {name: value for name, value in body.items() if value is not None}
    return Call("http", path, msgspec.json.encode(given), read, safety, timeout_s)


def infer(
    model: str,
    tensors: Mapping[str, NDArray[Any]],
    *,
    version: int | None = None,
    routing_key: str | None = None,
    timeout_s: float | None = None,
) -> Call[ClientAnswer]:
    """Score rows.

    Args:
        tensors: One array ``[rows]`` for each input: int64, float32, or text (None where missing).
        version: None lets the canary split choose.
        routing_key: What the split hashes, in place of the model's own key.
    """
    request = pb.ModelInferRequest(model_name=model, model_version="" if version is None else str(version))
    if routing_key is not None:
        request.parameters["routing_key"].string_param = routing_key
    for name, values in tensors.items():
        datatype, raw = wire.encode(name, values)
        request.inputs.add(name=name, datatype=datatype, shape=values.shape)
        request.raw_input_contents.append(raw)
    return _oip("ModelInfer", request, pb.ModelInferResponse, _answer, timeout_s=timeout_s)


def _answer(response: pb.ModelInferResponse) -> ClientAnswer:
    outputs = {
        output.name: wire.decode(output.datatype, list(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return ClientAnswer(
        version=int(response.model_version),
        arm=response.parameters["arm"].string_param,
        prediction_id=response.parameters["prediction_id"].string_param,
        outputs=outputs,
    )


def churn(
    customers: Sequence[Mapping[str, object]] | None = None,
    *,
    customer_ids: Sequence[int | str] | None = None,
    model: str | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
) -> Call[ChurnAnswer]:
    """How likely customers are to leave.

    Args:
        customers: Features by name for each customer; one that is absent or None is missing. None: the server looks the
            features of ``customer_ids`` up, where it has a feature store.
        customer_ids: The first one decides in a canary split.
        model: None: the only churn model there is.
        version: None lets the canary split choose.
    """
    rows = None if customers is None else list(customers)
    body = {"customers": rows, "customer_ids": customer_ids, "model": model, "version": version}
    return _post("/v1/churn", body, _churn_answer, timeout_s=timeout_s)


class _ChurnRow(msgspec.Struct):
    churn_probability: float


class _ChurnJson(msgspec.Struct):
    model: str
    version: int
    arm: str
    prediction_id: str
    predictions: list[_ChurnRow]


def _churn_answer(body: bytes) -> ChurnAnswer:
    given = msgspec.json.decode(body, type=_ChurnJson)
    probabilities = np.array([row.churn_probability for row in given.predictions], np.float32)
    return ChurnAnswer(given.model, given.version, given.arm, given.prediction_id, probabilities)


def feedback(labels: Sequence[Label], *, timeout_s: float | None = None) -> Call[int]:
    """Send labels (prediction id, row, label); the server has them on disk when this returns.

    Tried again only where the server surely took none. After another failure they may be there or not; to send them
    again by hand does no harm, as of several labels for one row the last one counts.

    Returns:
        How many were accepted: all, or an error says why none was.
    """
    body = {"feedback": [{"prediction_id": p, "row": row, "label": float(label)} for p, row, label in labels]}
    return _post("/v1/feedback", body, _accepted, timeout_s=timeout_s, safety=Safety.ONCE)


class _FeedbackJson(msgspec.Struct):
    accepted: int


def _accepted(body: bytes) -> int:
    return msgspec.json.decode(body, type=_FeedbackJson).accepted


def live(*, timeout_s: float | None = None) -> Call[bool]:
    """Whether the server runs. Asked once, as it is a question about now."""
    return _oip(
        "ServerLive",
        pb.ServerLiveRequest(),
        pb.ServerLiveResponse,
        lambda response: response.live,
        timeout_s=timeout_s,
        safety=Safety.SINGLE,
    )


def ready(*, timeout_s: float | None = None) -> Call[bool]:
    """Whether the server takes traffic. Asked once, as it is a question about now."""
    return _oip(
        "ServerReady",
        pb.ServerReadyRequest(),
        pb.ServerReadyResponse,
        lambda response: response.ready,
        timeout_s=timeout_s,
        safety=Safety.SINGLE,
    )


def model_ready(model: str, *, version: int | None = None, timeout_s: float | None = None) -> Call[bool]:
    """Whether a model (None: the version that its rollout calls stable) can answer. Asked once."""
    request = pb.ModelReadyRequest(name=model, version="" if version is None else str(version))
    return _oip(
        "ModelReady",
        request,
        pb.ModelReadyResponse,
        lambda response: response.ready,
        timeout_s=timeout_s,
        safety=Safety.SINGLE,
    )


def server_metadata(*, timeout_s: float | None = None) -> Call[ServerMetadata]:
    """Which server it is."""
    return _oip(
        "ServerMetadata",
        pb.ServerMetadataRequest(),
        pb.ServerMetadataResponse,
        lambda response: ServerMetadata(response.name, response.version, tuple(response.extensions)),
        timeout_s=timeout_s,
    )


def metadata(model: str, *, version: int | None = None, timeout_s: float | None = None) -> Call[ModelMetadata]:
    """What a model takes and gives."""
    request = pb.ModelMetadataRequest(name=model, version="" if version is None else str(version))
    return _oip("ModelMetadata", request, pb.ModelMetadataResponse, _model_metadata, timeout_s=timeout_s)


def _model_metadata(response: pb.ModelMetadataResponse) -> ModelMetadata:
    return ModelMetadata(
        name=response.name,
        versions=tuple(int(version) for version in response.versions),
        platform=response.platform,
        inputs=tuple(TensorMetadata(spec.name, spec.datatype, tuple(spec.shape)) for spec in response.inputs),
        outputs=tuple(TensorMetadata(spec.name, spec.datatype, tuple(spec.shape)) for spec in response.outputs),
    )


def index(*, timeout_s: float | None = None) -> Call[tuple[VersionState, ...]]:
    """What the server says of each version of each model."""
    return _oip("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse, _index, timeout_s=timeout_s)


def _index(response: pb.RepositoryIndexResponse) -> tuple[VersionState, ...]:
    return tuple(VersionState(one.name, int(one.version), one.state, one.reason) for one in response.models)


def versions(model: str, *, timeout_s: float | None = None) -> Call[dict[int, str]]:
    """What the server says of each version of a model: READY, or UNAVAILABLE and why."""

    def of_model(response: pb.RepositoryIndexResponse) -> dict[int, str]:
        return {one.version: f"{one.state} {one.reason}".strip() for one in _index(response) if one.name == model}

    return _oip(
        "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse, of_model, timeout_s=timeout_s
    )


def load(model: str, *, version: int | None = None, timeout_s: float | None = None) -> Call[None]:
    """Load a version (None: what the rollout names); it can answer when this returns. Needs an admin token."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    if version is not None:
        request.parameters["version"].int64_param = version
    return _admin("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, timeout_s)


def unload(model: str, *, version: int | None = None, timeout_s: float | None = None) -> Call[None]:
    """Unload a version (None: all of the model); it is gone when this returns. Needs an admin token."""
    request = pb.RepositoryModelUnloadRequest(model_name=model)
    if version is not None:
        request.parameters["version"].int64_param = version
    return _admin("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse, timeout_s)


def _admin(method: str, request: Message, kind: type[Message], timeout_s: float | None) -> Call[None]:
    """Sent once: whoever administers looks at what happened before doing it again."""
    return _oip(method, request, kind, lambda response: None, timeout_s=timeout_s, safety=Safety.SINGLE)
