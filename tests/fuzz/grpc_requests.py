"""gRPC calls: valid ones, and what damage makes of them."""

import struct
from random import Random
from typing import Any

import numpy as np

from serving._proto import health_pb2, reflection_v1alpha_pb2, torchserve_inference_pb2
from serving._proto import open_inference_pb2 as pb
from tests.fuzz.mutations import damaged_bytes, damaged_value, json_text, packed, pieces
from tests.fuzz.wire import LIMIT, Headers, Wire

_OIP = b"/inference.GRPCInferenceService/"
_TORCHSERVE = b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
_REFLECTION = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_ROWS_JSON = b'[{"user_id": 7, "item_id": 10}]'


def valid_infer(rng: Random) -> pb.ModelInferRequest:
    """A request that must be answered."""
    rows = rng.choice((1, 1, 2, 5))
    users, items = ([rng.choice((7, 15, 400, 99))] * rows for _ in range(2))
    request = pb.ModelInferRequest(model_name="mf", id=rng.choice(("", "a")))
    for name, values in (("user_id", users), ("item_id", items)):
        request.inputs.add(name=name, datatype="INT64", shape=[rows])
        if (as_raw := rows % 2) == 1:
            request.raw_input_contents.append(np.array(values, "<i8").tobytes())
        if not as_raw:
            request.inputs[-1].contents.int64_contents.extend(values)
    return request


def valid_churn(rng: Random) -> pb.ModelInferRequest:
    """The same for the model that takes text."""
    rows = rng.choice((1, 3))
    request = pb.ModelInferRequest(model_name="churn")
    contract = request.inputs.add(name="contract", datatype="BYTES", shape=[rows])
    tenure = request.inputs.add(name="tenure", datatype="FP32", shape=[rows])
    if rng.random() < 0.5:
        contract.contents.bytes_contents.extend([b"One year"] * rows)
        tenure.contents.fp32_contents.extend([1.5] * rows)
    else:
        request.raw_input_contents.append((struct.pack("<I", 8) + b"One year") * rows)
        request.raw_input_contents.append(np.full(rows, 3, "<f4").tobytes())
    return request


_NAMES = ("", "mf", "churn", "user_id", "item_id", "contract", "tenure", "score", "x" * 200, "\0", "é")
_SHAPES = ([], [0], [1], [2], [-1], [2, 1], [1, 1, 1], [2**31], [2**63 - 1], [-(2**63)])


def _damaged_infer(rng: Random, request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """A well-formed message that says something else than it should, in one to three places."""
    for _ in range(rng.randrange(1, 4)):
        if request.inputs and rng.random() < 0.6:
            _damage_tensor(rng, request, rng.randrange(len(request.inputs)))
        else:
            _damage_request(rng, request)
    return request


def _damage_tensor(rng: Random, request: pb.ModelInferRequest, position: int) -> None:
    tensor = request.inputs[position]
    kind = rng.randrange(5)
    if kind == 0:
        tensor.datatype = rng.choice(("", "INT64", "FP32", "BYTES", "BF16"))
    elif kind == 1:
        tensor.shape[:] = rng.choice(_SHAPES)
    elif kind == 2:
        tensor.name = rng.choice(_NAMES)
    elif kind == 3:
        tensor.contents.fp32_contents.extend([float("nan"), float("inf"), -0.0][: rng.randrange(4)])
        tensor.contents.bytes_contents.extend([b"\xff\xfe", b""][: rng.randrange(3)])
    elif position < len(request.raw_input_contents):
        request.raw_input_contents[position] = damaged_bytes(rng, request.raw_input_contents[position])


def _damage_request(rng: Random, request: pb.ModelInferRequest) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        request.model_name = rng.choice(_NAMES)
    elif kind == 1:
        request.model_version = rng.choice(("", "1", "2", "-1", "1.0", "9" * 30, "x", "\0", "٣"))
    elif kind == 2:
        request.outputs.add(name=rng.choice(_NAMES))
    elif kind == 3:
        _damage_parameter(rng, request.parameters[rng.choice(("routing_key", "timeout", "", "priority"))])
    elif kind == 4:
        request.inputs.add(name=rng.choice(_NAMES), datatype="INT64", shape=rng.choice(_SHAPES))
    else:
        request.raw_input_contents.append(rng.randbytes(rng.choice((0, 1, 8, 16))))


def _damage_parameter(rng: Random, parameter: Any) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        parameter.string_param = rng.choice(("", "a", "x" * 1000, "é", "\0"))
    elif kind == 1:
        parameter.int64_param = rng.choice((0, -1, 2**63 - 1, -(2**63)))
    elif kind == 2:
        parameter.bool_param = True
    elif kind == 3:
        parameter.double_param = rng.choice((0.5, float("nan"), float("inf")))
    else:
        parameter.uint64_param = 2**64 - 1


def _grpc_message(rng: Random) -> tuple[bytes, bytes]:
    """A path and a message for it."""
    kind = rng.randrange(12)
    if kind < 6:
        request = (valid_infer if rng.random() < 0.7 else valid_churn)(rng)
        if rng.random() < 0.6:
            request = _damaged_infer(rng, request)
        method = b"ModelInfer" if kind < 4 else b"ModelStreamInfer"
        return _OIP + method, request.SerializeToString()
    if kind == 6:
        keys = rng.choice(
            ({"data": _ROWS_JSON}, {"body": json_text(rng, damaged_value(rng, [{"user_id": 7, "item_id": 10}]))})
        )
        request = torchserve_inference_pb2.PredictionsRequest(model_name=rng.choice(("mf", "x", "")), input=keys)
        request.model_version = rng.choice(("", "1", "1.0", "x", "٣"))
        return _TORCHSERVE + rng.choice((b"Predictions", b"StreamPredictions")), request.SerializeToString()
    if kind == 7:
        service = rng.choice(("", "inference.GRPCInferenceService", "x"))
        return b"/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service=service).SerializeToString()
    if kind == 8:
        request = reflection_v1alpha_pb2.ServerReflectionRequest()
        field = rng.choice(
            ("file_by_filename", "file_containing_symbol", "list_services", "all_extension_numbers_of_type")
        )
        setattr(request, field, rng.choice((*_NAMES, "inference.GRPCInferenceService", "open_inference.proto")))
        return rng.choice((_REFLECTION, _REFLECTION.replace(b"v1alpha", b"v1"))), request.SerializeToString()
    name, version = rng.choice(_NAMES), rng.choice(("", "1", "x"))
    method, message = rng.choice(
        (
            (b"ModelMetadata", pb.ModelMetadataRequest(name=name, version=version)),
            (b"ModelReady", pb.ModelReadyRequest(name=name, version=version)),
            (b"ModelConfig", pb.ModelConfigRequest(name=name, version=version)),
            (b"ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version)),
            (b"RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
            (b"RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name)),
            (b"ServerReady", pb.ServerReadyRequest()),
            (b"SystemSharedMemoryStatus", pb.ServerReadyRequest()),
            (b"NoSuchMethod", pb.ServerReadyRequest()),
        )
    )
    return _OIP + method, message.SerializeToString()


def _frame(rng: Random, message: bytes, headers: Headers) -> bytes:
    """A message in its frame, compressed now and then, or in a frame that lies."""
    flag = 0
    if rng.random() < 0.2:
        encoding, message = packed(rng, message)
        headers.append((b"grpc-encoding", encoding))
        flag = 1
    frame = struct.pack(">BI", flag, len(message)) + message
    kind = rng.randrange(20)
    if kind == 0:
        return struct.pack(">BI", rng.randrange(256), rng.choice((0, 1, len(message) + 1, 2**31, 2**32 - 1))) + message
    if kind == 1:
        return damaged_bytes(rng, frame)
    if kind == 2:
        return frame * rng.randrange(2, 5)
    if kind == 3:
        return frame + bytes(LIMIT)
    return frame


def grpc_request(rng: Random) -> Wire:
    """A gRPC call."""
    path, message = _grpc_message(rng)
    if rng.random() < 0.2:
        message = damaged_bytes(rng, message)
    if rng.random() < 0.05:
        path = damaged_bytes(rng, path)
    headers: Headers = [
        (b"content-type", rng.choice((b"application/grpc", b"application/grpc+proto"))),
        (b"te", b"trailers"),
    ]
    if rng.random() < 0.3:
        timeouts = (
            b"1S",
            b"10000000m",
            b"0n",
            b"99999999H",
            b"-1S",
            b"1",
            b"S",
            b"\xb2S",
            b"123456789S",
            rng.randbytes(3),
        )
        headers.append((b"grpc-timeout", rng.choice(timeouts)))
    if rng.random() < 0.1:
        headers.append((b"grpc-accept-encoding", rng.choice((b"gzip", b"identity,deflate,gzip", b"\xff,,"))))
    if rng.random() < 0.1:
        headers.append((b"authorization", rng.choice((b"", b"Bearer", b"Bearer x", b"\xff", b"Basic eDp5"))))
    body = _frame(rng, message, headers)
    return Wire(
        rng.choice(("POST", "POST", "POST", "GET")), path, headers, pieces(rng, body), leaves=rng.random() < 0.02
    )
