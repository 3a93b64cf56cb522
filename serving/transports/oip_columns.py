"""A ModelInfer message's tensors, raw or typed, to columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, InputSpec
from driftwheel.errors import InvalidRequestError
from serving._proto import open_inference_pb2 as pb
from serving.codec import Column, from_raw

_CONTENTS: dict[Datatype, str] = {"INT64": "int64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}


def check_raw_contents(request: pb.ModelInferRequest) -> None:
    """Refuse a message with raw contents for some of its inputs only.

    Raises:
        InvalidRequestError: It is one.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"raw_input_contents must hold all {len(request.inputs)} inputs or none, got {len(raw)}"
        )


def column_of(request: pb.ModelInferRequest, position: int, spec: InputSpec, rows: int) -> Column:
    """The values ``[rows]`` of the tensor in a position, from raw or typed contents.

    Raises:
        InvalidRequestError: There are not so many.
    """
    raw = request.raw_input_contents
    return from_raw(spec, rows, raw[position]) if raw else _typed(spec, rows, request.inputs[position].contents)


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
