"""The requests that are sent, and the frames that they travel in."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import ITEM_COUNT, USERS
from serving._proto import open_inference_pb2 as pb
from serving._proto import torchserve_inference_pb2 as torchserve_pb

FRAME = struct.Struct(">BI")
"""gRPC's prefix of a message: whether it is compressed, and its length."""

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"


@dataclass(frozen=True, slots=True)
class Call:
    """A request, always the same: a unary gRPC call, or a POST of JSON over HTTP/1.1."""

    path: str
    message: bytes
    rest: bool = False

    @property
    def body(self) -> bytes:
        """The message, for gRPC in its frame."""
        return self.message if self.rest else FRAME.pack(0, len(self.message)) + self.message

    def answer_bytes(self, answer: bytes) -> int:
        """How many bytes of data bring an answer."""
        return len(answer) if self.rest else FRAME.size + len(answer)


def pairs(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and items ``[rows]``, spread over the model's tables, the same in every run."""
    rng = np.random.default_rng(rows)
    return rng.integers(1, USERS + 1, rows), rng.integers(1, ITEM_COUNT + 1, rows)


def infer_call(rows: int, *, model: str = "mf") -> Call:
    """ModelInfer of the Open Inference Protocol, with raw tensors."""
    users, items = pairs(rows)
    request = pb.ModelInferRequest(
        model_name=model,
        inputs=[{"name": name, "datatype": "INT64", "shape": [rows]} for name in ("user_id", "item_id")],
        raw_input_contents=[users.astype("<i8").tobytes(), items.astype("<i8").tobytes()],
    )
    return Call(MODEL_INFER, request.SerializeToString())


def infer_scores(answer: bytes) -> NDArray[np.float32]:
    """The scores in a ModelInferResponse."""
    return np.frombuffer(pb.ModelInferResponse.FromString(answer).raw_output_contents[0], "<f4")


def predictions_call(inputs: Mapping[str, bytes], *, version: str = "") -> Call:
    """Predictions of TorchServe's own gRPC, for the model ``mf``."""
    request = torchserve_pb.PredictionsRequest(model_name="mf", model_version=version, input=inputs)
    return Call(PREDICTIONS, request.SerializeToString())


def prediction(answer: bytes) -> bytes:
    """What a handler answered, in a PredictionResponse."""
    return torchserve_pb.PredictionResponse.FromString(answer).prediction


def columns_of(rows: int) -> dict[str, bytes]:
    """``pairs`` as raw columns: little-endian int64."""
    users, items = pairs(rows)
    return {"user_id": users.astype("<i8").tobytes(), "item_id": items.astype("<i8").tobytes()}


def rest_call(rows: int) -> Call:
    """``POST /predictions/mf`` of TorchServe's REST API, with ``pairs`` as JSON."""
    return Call("/predictions/mf", _listed(rows), rest=True)


def json_of(rows: int) -> dict[str, bytes]:
    """``pairs`` as JSON in the one field that TorchServe's own gRPC clients send."""
    return {"data": _listed(rows)}


def _listed(rows: int) -> bytes:
    """``pairs`` as a list of objects."""
    users, items = pairs(rows)
    listed = [{"user_id": user, "item_id": item} for user, item in zip(users.tolist(), items.tolist(), strict=True)]
    return json.dumps(listed).encode()
