"""ModelInfer's messages to a call, and an answer to its message."""

import time

from driftwheel.errors import InvalidRequestError
from serving._proto import open_inference_pb2 as pb
from serving.checking import (
    check_datatype,
    check_finite,
    check_input_names,
    check_output_names,
    check_same_rows,
    check_shape,
)
from serving.codec import Column, Columns, Raw, key_of
from serving.engine import LoadedVersion
from serving.features import OnlineFeatures
from serving.service import Answer, InferCall, InferenceService, OnDisconnect
from serving.transports.grpc_calls import PROTOCOL, CallContext, parsed
from serving.transports.oip_columns import check_raw_contents, column_of
from serving.transports.oip_customers import looked_up, names_customers
from serving.transports.oip_forms import KnownForms
from serving.transports.oip_response import response_template, text_parameter
from serving.versions import Pin, parse_version


class ModelInfer:
    """Answers ModelInfer: a message in, a message out."""

    def __init__(self, service: InferenceService, features: OnlineFeatures | None) -> None:
        self._service = service
        self._features = features
        self._forms = KnownForms()

    async def __call__(self, message: Raw, ctx: CallContext) -> bytes:
        """Answer one message.

        Raises:
            RequestError: One of its kinds.
        """
        known = self._forms.match(message)
        if known is None:
            return await self._parse_and_infer(message, ctx)
        form, columns = known
        decode = form.decoder(columns, lambda loaded: decode_inputs(parsed(pb.ModelInferRequest, message), loaded))
        version = ctx.pin if form.version is None else form.version
        call = InferCall(form.model, decode, PROTOCOL, version, ctx.routing_key, ctx.deadline, ctx.on_disconnect)
        return infer_response(await self._service.infer(call))

    async def _parse_and_infer(self, message: Raw, ctx: CallContext) -> bytes:
        request = parsed(pb.ModelInferRequest, message)
        call = infer_call(request, ctx.deadline, ctx.on_disconnect, ctx.pin, ctx.routing_key)
        if self._features is not None and names_customers(request, self._service):
            call, freshness = await looked_up(request, call, self._features)
            answer = await self._service.infer(call)
            return _response(answer, request) + text_parameter("features", ",".join(freshness))
        answer = await self._service.infer(call)
        self._forms.learn(message, request, answer.version.signature, answer.rows)
        return _response(answer, request)


def infer_call(
    request: pb.ModelInferRequest,
    deadline: float | None,
    on_disconnect: OnDisconnect | None = None,
    pin: Pin | None = None,
    routing_key: bytes | None = None,
) -> InferCall:
    """The call that a message asks for; its tensors are decoded once a version is known.

    Args:
        pin: What is to answer where the message names no version.
        routing_key: What the split hashes where the message names no key.
    """
    named = _routing_key(request) if request.parameters else None
    return InferCall(
        model=request.model_name,
        decode=lambda loaded: decode_inputs(request, loaded),
        protocol=PROTOCOL,
        version=parse_version(request.model_version) if request.model_version else pin,
        routing_key=routing_key if named is None else named,
        deadline=_earlier(deadline, _timeout_us(request)) if request.parameters else deadline,
        on_disconnect=on_disconnect,
    )


def _timeout_us(request: pb.ModelInferRequest) -> int | None:
    """The parameter ``timeout``, in microseconds as Triton has it."""
    if "timeout" not in request.parameters:
        return None
    parameter = request.parameters["timeout"]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise InvalidRequestError("parameter 'timeout' must be a whole number of microseconds, 0 or more")
    return value


def _earlier(deadline: float | None, timeout_us: int | None) -> float | None:
    if timeout_us is None:
        return deadline
    asked = time.monotonic() + timeout_us / 1e6
    return asked if deadline is None else min(deadline, asked)


def _routing_key(request: pb.ModelInferRequest) -> bytes | None:
    if "routing_key" not in request.parameters:
        return None
    parameter = request.parameters["routing_key"]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("string_param", "int64_param", "uint64_param"):
        raise InvalidRequestError("parameter 'routing_key' must be a string or a whole number")
    return key_of(getattr(parameter, kind))


def decode_inputs(request: pb.ModelInferRequest, loaded: LoadedVersion) -> tuple[Columns, int]:
    """Columns ``[rows]`` by input name, from raw or typed contents.

    Raises:
        InvalidRequestError: The message does not fit the version's signature.
        TooLargeError: It has more rows than one request may have.
    """
    signature, max_rows = loaded.signature, loaded.limits.max_rows_per_request
    by_name = {tensor.name: (position, tensor) for position, tensor in enumerate(request.inputs)}
    check_input_names(signature, [tensor.name for tensor in request.inputs])
    check_output_names(signature, [output.name for output in request.outputs])
    check_raw_contents(request)
    columns: dict[str, Column] = {}
    counts: dict[str, int] = {}
    for spec in signature.inputs:
        position, tensor = by_name[spec.name]
        check_datatype(spec, tensor.datatype)
        counts[spec.name] = rows = check_shape(spec, tensor.shape, max_rows=max_rows)
        columns[spec.name] = column_of(request, position, spec, rows)
        check_finite(spec, columns[spec.name])
    return columns, check_same_rows(counts)


def _response(answer: Answer, request: pb.ModelInferRequest) -> bytes:
    return infer_response(answer, request.id, tuple(output.name for output in request.outputs))


def infer_response(answer: Answer, request_id: str = "", wanted: tuple[str, ...] = ()) -> bytes:
    """The serialized message for an answer; raw contents, as every client of the protocol reads.

    Args:
        wanted: The outputs that were asked for; none: all.
    """
    loaded = answer.version
    template = response_template(loaded.name, loaded.version, answer.arm, wanted or loaded.output_names)
    return template.render(request_id, answer.prediction_id, answer.rows, answer.outputs)
