"""A client for a Driftwheel server, over gRPC for answers and HTTP for feedback.

Example::

    with Client("127.0.0.1:8080") as client:
        answer = client.infer("mf", {"user_id": np.array([15]), "item_id": np.array([318])})
        client.feedback([(answer.prediction_id, 0, 4.5)])
"""

import http.client
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import DriftwheelError
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

_LENGTH = struct.Struct("<I")


class ClientError(DriftwheelError):
    """The server could not answer.

    Args:
        code: gRPC's name for why, for example ``NOT_FOUND``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class ClientAnswer:
    """What a model gave, and what answered."""

    version: int
    arm: str
    prediction_id: str
    outputs: dict[str, NDArray[np.float32]]


class PendingAnswer:
    """A call under way."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self) -> ClientAnswer:
        """Wait for the answer.

        Raises:
            ClientError: The server refused or failed.
        """
        try:
            return _answer(self._future.result())
        except grpc.RpcError as error:
            raise _client_error(error) from None


class Client:
    """A connection to one server.

    Args:
        target: ``host:port``.
        timeout_s: How long a call may take.
    """

    def __init__(self, target: str, *, timeout_s: float = 10.0) -> None:
        self._channel = grpc.insecure_channel(target)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._http = http.client.HTTPConnection(target, timeout=timeout_s)
        self._timeout_s = timeout_s

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

    def infer(self, model: str, tensors: Mapping[str, NDArray[Any]], *, version: int | None = None) -> ClientAnswer:
        """Score rows.

        Args:
            tensors: One array ``[rows]`` for each input: int64, float32, or object (text, None where missing).
            version: None lets the canary split choose.

        Raises:
            ClientError: The server refused or failed.
        """
        return self.start_infer(model, tensors, version=version).result()

    def start_infer(
        self,
        model: str,
        tensors: Mapping[str, NDArray[Any]],
        *,
        version: int | None = None,
        routing_key: str | None = None,
    ) -> PendingAnswer:
        """Send a request without waiting for its answer."""
        request = pb.ModelInferRequest(model_name=model, model_version=str(version) if version else "")
        if routing_key is not None:
            request.parameters["routing_key"].string_param = routing_key
        for name, values in tensors.items():
            datatype, raw = _encoded(values)
            request.inputs.add(name=name, datatype=datatype, shape=values.shape)
            request.raw_input_contents.append(raw)
        return PendingAnswer(self._stub.ModelInfer.future(request, timeout=self._timeout_s))

    def ready(self) -> bool:
        """Whether the server takes traffic.

        Raises:
            ClientError: It cannot be reached.
        """
        try:
            return self._stub.ServerReady(pb.ServerReadyRequest(), timeout=self._timeout_s).ready
        except grpc.RpcError as error:
            raise _client_error(error) from None

    def versions(self, model: str) -> dict[int, str]:
        """What the server says of each version of a model: READY, or UNAVAILABLE and why."""
        try:
            index = self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise _client_error(error) from None
        return {int(one.version): f"{one.state} {one.reason}".strip() for one in index.models if one.name == model}

    def feedback(self, labels: Sequence[tuple[str, int, float]]) -> int:
        """Send labels (prediction id, row, label); the server has them on disk when this returns.

        Raises:
            ClientError: One of them was refused; then none was accepted.
        """
        body = {"feedback": [{"prediction_id": p, "row": row, "label": float(label)} for p, row, label in labels]}
        return int(self._post("/v1/feedback", body)["accepted"])

    def _exchange(self, path: str, body: object) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._http.request("POST", path, msgspec.json.encode(body), {"content-type": "application/json"})
            response = self._http.getresponse()
            return response, response.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            raise

    def _post(self, path: str, body: object) -> dict[str, Any]:
        try:
            response, content = self._exchange(path, body)
        except (OSError, http.client.HTTPException):
            # A kept connection that the server has closed meanwhile. Feedback twice is feedback once: the last label counts.
            try:
                response, content = self._exchange(path, body)
            except (OSError, http.client.HTTPException) as error:
                raise ClientError("UNAVAILABLE", f"{path}: {error}") from None
        if response.status != 200:
            raise ClientError(str(response.status), content.decode("utf-8", "replace")[:500])
        return msgspec.json.decode(content, type=dict[str, Any])


def _encoded(values: NDArray[Any]) -> tuple[str, bytes]:
    if values.dtype == np.int64:
        return "INT64", values.astype("<i8").tobytes()
    if values.dtype == np.float32:
        return "FP32", values.astype("<f4").tobytes()
    if values.dtype != object:
        raise TypeError(f"tensors must be int64, float32 or object (text), not {values.dtype}")
    texts = [b"" if value is None else str(value).encode() for value in values]
    return "BYTES", b"".join(_LENGTH.pack(len(text)) + text for text in texts)


def _answer(response: pb.ModelInferResponse) -> ClientAnswer:
    outputs = {
        output.name: np.frombuffer(raw, dtype="<f4")
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return ClientAnswer(
        version=int(response.model_version),
        arm=response.parameters["arm"].string_param,
        prediction_id=response.parameters["prediction_id"].string_param,
        outputs=outputs,
    )


def _client_error(error: grpc.RpcError) -> ClientError:
    # Every error that a stub raises is also a grpc.Call, which the base class does not say.
    call: Any = error
    return ClientError(call.code().name, call.details() or "")
