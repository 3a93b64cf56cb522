"""ModelInfer's messages to a call, and an answer to its message."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, InputSpec, Signature
from driftwheel.errors import InvalidRequestError
from driftwheel.preprocessing import Tensors
from serving._proto import open_inference_pb2 as pb
from serving.checking import (
    check_datatype,
    check_finite,
    check_input_names,
    check_output_names,
    check_same_rows,
    check_shape,
)
from serving.codec import from_raw, key_of
from serving.service import Answer, InferCall
from serving.versions import parse_version

_CONTENTS: dict[Datatype, str] = {"INT64": "int64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}


def infer_call(request: pb.ModelInferRequest, deadline: float | None, max_rows: int) -> InferCall:
    """The call that a message asks for; its tensors are decoded once a signature is known."""

    def decode(signature: Signature) -> tuple[Tensors, int]:
        return decode_inputs(request, signature, max_rows)

    return InferCall(
        model=request.model_name,
        decode=decode,
        protocol="grpc",
        version=parse_version(request.model_version) if request.model_version else None,
        routing_key=_routing_key(request),
        deadline=deadline,
    )


def _routing_key(request: pb.ModelInferRequest) -> bytes | None:
    if not request.parameters or "routing_key" not in request.parameters:
        return None
    parameter = request.parameters["routing_key"]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("string_param", "int64_param", "uint64_param"):
        raise InvalidRequestError("parameter 'routing_key' must be a string or a whole number")
    return key_of(getattr(parameter, kind))


def decode_inputs(request: pb.ModelInferRequest, signature: Signature, max_rows: int) -> tuple[Tensors, int]:
    """Arrays ``[rows]`` by input name, from raw or typed contents.

    Raises:
        InvalidRequestError: The message does not fit the signature.
        TooLargeError: It has more than ``max_rows`` rows.
    """
    by_name = {tensor.name: (position, tensor) for position, tensor in enumerate(request.inputs)}
    check_input_names(signature, [tensor.name for tensor in request.inputs])
    check_output_names(signature, [output.name for output in request.outputs])
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"raw_input_contents must hold all {len(request.inputs)} inputs or none, got {len(raw)}"
        )
    tensors: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        position, tensor = by_name[spec.name]
        check_datatype(spec, tensor.datatype)
        rows = check_shape(spec, tensor.shape, max_rows=max_rows)
        tensors[spec.name] = from_raw(spec, rows, raw[position]) if raw else _typed(spec, rows, tensor.contents)
        check_finite(spec, tensors[spec.name])
    return tensors, check_same_rows(tensors)


def _typed(spec: InputSpec, rows: int, contents: pb.InferTensorContents) -> NDArray[Any]:
    """Typed contents; protobuf has already checked the type of each value."""
    field = _CONTENTS[spec.datatype]
    values = getattr(contents, field)
    if len(values) != rows:
        raise InvalidRequestError(
            f"input {spec.name!r} of shape [{rows}] must have {rows} values in {field}, got {len(values)}"
        )
    if spec.datatype == "BYTES":
        array = np.empty(rows, dtype=object)
        array[:] = list(values)
        return array
    return np.array(values, dtype=np.int64 if spec.datatype == "INT64" else np.float32)


def infer_response(request: pb.ModelInferRequest, answer: Answer) -> pb.ModelInferResponse:
    """The message for an answer; raw contents, as every client of the protocol reads."""
    manifest = answer.version.bundle.manifest
    wanted = [output.name for output in request.outputs] or [spec.name for spec in manifest.signature.outputs]
    response = pb.ModelInferResponse(
        model_name=manifest.name,
        model_version=str(manifest.version),
        id=request.id or answer.prediction_id,
    )
    response.parameters["prediction_id"].string_param = answer.prediction_id
    response.parameters["arm"].string_param = answer.arm
    for name in wanted:
        response.outputs.add(name=name, datatype="FP32", shape=[answer.rows])
        response.raw_output_contents.append(answer.outputs[name].tobytes())
    return response
