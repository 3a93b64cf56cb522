"""The Open Inference Protocol's JSON: what infer requests and answers look like, to arrays and back."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from driftwheel.contracts import InputSpec
from driftwheel.errors import InvalidRequestError
from serving.checking import (
    check_datatype,
    check_finite,
    check_input_names,
    check_output_names,
    check_same_rows,
    check_shape,
)
from serving.codec import Column, Columns, from_list, from_raw, key_of
from serving.engine import LoadedVersion
from serving.service import Answer
from serving.transports.binary_tensors import LENGTH_HEADER, boolean_parameter, cut_tensors, split_body, wants_binary
from serving.transports.json_bodies import check_media_type, decode_json
from serving.transports.routing import JSON, Request, Response

Parameters = dict[str, Any]


class TensorJson(msgspec.Struct):
    """An input tensor of shape ``[rows]``, with its values in ``data`` or as bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | UnsetType = UNSET
    parameters: Parameters = {}


class OutputJson(msgspec.Struct):
    """A requested output."""

    name: str
    parameters: Parameters = {}


class InferJson(msgspec.Struct):
    """The body of an infer request. Parameters that are read: ``routing_key``, ``timeout`` (microseconds) and
    ``binary_data_output``.
    """

    inputs: list[TensorJson]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[OutputJson] = []


class AnsweredTensorJson(msgspec.Struct, omit_defaults=True):
    """An output tensor, with its values in ``data`` or as bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET


class AnswerParametersJson(msgspec.Struct):
    """What answered."""

    prediction_id: str
    """Feedback names it."""
    arm: str
    """The part of a canary split."""


class InferAnswerJson(msgspec.Struct):
    """The body of an infer answer."""

    model_name: str
    model_version: str
    id: str
    parameters: AnswerParametersJson
    outputs: list[AnsweredTensorJson]


class InferBody:
    """A parsed infer request."""

    def __init__(self, request: Request) -> None:
        """Parse it.

        Raises:
            RequestError: It cannot be used; the message names the field.
        """
        check_media_type(request)
        head, tail = split_body(request.body, request.optional_header(LENGTH_HEADER))
        self.json = json = decode_json(head, InferJson)
        self._raw = cut_tensors(tail, [(tensor.name, tensor.parameters) for tensor in json.inputs])
        all_binary = boolean_parameter(json.parameters, "binary_data_output")
        self._default_binary = all_binary
        self._binary = {one.name: wants_binary(one.name, one.parameters, all_binary) for one in json.outputs}
        self.routing_key = _routing_key(json.parameters)
        self.deadline = _earlier(request.deadline(), _timeout(json.parameters, time.monotonic()))

    def decode(self, loaded: LoadedVersion) -> tuple[Columns, int]:
        """Columns ``[rows]`` by input name.

        Raises:
            InvalidRequestError: The body does not fit the signature.
            TooLargeError: It has more rows than the model takes.
        """
        signature = loaded.signature
        by_name = {tensor.name: tensor for tensor in self.json.inputs}
        check_input_names(signature, [tensor.name for tensor in self.json.inputs])
        check_output_names(signature, list(self._binary))
        columns: dict[str, Column] = {}
        rows: dict[str, int] = {}
        for spec in signature.inputs:
            tensor = by_name[spec.name]
            check_datatype(spec, tensor.datatype)
            rows[spec.name] = check_shape(spec, tensor.shape, max_rows=loaded.limits.max_rows_per_request)
            columns[spec.name] = self._column(spec, rows[spec.name], tensor)
            check_finite(spec, columns[spec.name])
        return columns, check_same_rows(rows)

    def _column(self, spec: InputSpec, rows: int, tensor: TensorJson) -> Column:
        raw = self._raw.get(tensor.name)
        if isinstance(tensor.data, UnsetType):
            if raw is None:
                raise InvalidRequestError(f"input {spec.name!r} has neither data nor binary_data_size")
            return from_raw(spec, rows, raw)
        if raw is not None:
            raise InvalidRequestError(f"input {spec.name!r} has both data and binary_data_size")
        return from_list(spec, rows, tensor.data)

    def response(self, answer: Answer) -> Response:
        """The answer, in the form that each output was asked for."""
        loaded = answer.version
        names = list(self._binary) or [spec.name for spec in loaded.signature.outputs]
        parts = [_answered(name, answer, self._binary.get(name, self._default_binary)) for name in names]
        head = msgspec.json.encode(
            InferAnswerJson(
                model_name=loaded.name,
                model_version=str(loaded.version),
                id=self.json.id or answer.prediction_id,
                parameters=AnswerParametersJson(answer.prediction_id, answer.arm),
                outputs=[tensor for tensor, _ in parts],
            )
        )
        blobs = [blob for _, blob in parts if blob is not None]
        if not blobs:
            return Response(head, content_type=JSON)
        return Response(
            b"".join([head, *blobs]),
            content_type=b"application/octet-stream",
            headers=[(LENGTH_HEADER, str(len(head)).encode())],
        )


def _answered(name: str, answer: Answer, binary: bool) -> tuple[AnsweredTensorJson, bytes | None]:  # noqa: FBT001
    values = answer.values(name)
    shape = [answer.rows]
    if binary:
        blob = values.tobytes()
        return AnsweredTensorJson(name, "FP32", shape, parameters={"binary_data_size": len(blob)}), blob
    return AnsweredTensorJson(name, "FP32", shape, data=values.tolist()), None


def _routing_key(parameters: Mapping[str, Any]) -> bytes | None:
    key = parameters.get("routing_key")
    if key is None:
        return None
    if not isinstance(key, (str, int)) or isinstance(key, bool):
        raise InvalidRequestError(f"parameter 'routing_key' must be a string or a whole number, got {key!r}")
    return key_of(key)


def _timeout(parameters: Mapping[str, Any], now: float) -> float | None:
    """From the ``timeout`` parameter, in microseconds as Triton has it."""
    timeout_us = parameters.get("timeout")
    if timeout_us is None:
        return None
    if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or not 0 <= timeout_us < 2**63:
        raise InvalidRequestError(f"parameter 'timeout' must be a whole number of microseconds, got {timeout_us!r}")
    return now + timeout_us / 1e6


def _earlier(*deadlines: float | None) -> float | None:
    return min((one for one in deadlines if one is not None), default=None)
