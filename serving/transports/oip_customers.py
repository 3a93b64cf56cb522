"""ModelInfer for customers that are only named: the one tensor ``customer_id`` in the place of a churn model's features."""

from collections.abc import Sequence

from msgspec.structs import replace

from driftwheel.contracts import InputSpec
from driftwheel.errors import InvalidRequestError
from driftwheel.feature_store import CUSTOMER_ID
from serving._proto import open_inference_pb2 as pb
from serving.checking import check_output_names, check_shape
from serving.codec import Columns, as_array, key_of, text
from serving.engine import LoadedVersion
from serving.features import Freshness, OnlineFeatures
from serving.service import InferCall, InferenceService
from serving.transports.oip_columns import check_raw_contents, column_of

_KINDS: dict[str, InputSpec] = {
    "INT64": InputSpec(name=CUSTOMER_ID, datatype="INT64", role="id", graph_input=CUSTOMER_ID),
    "BYTES": InputSpec(name=CUSTOMER_ID, datatype="BYTES", role="id", graph_input=CUSTOMER_ID),
}


def names_customers(request: pb.ModelInferRequest, service: InferenceService) -> bool:
    """Whether a request brings customers' ids to a model that takes features instead.

    Raises:
        RequestError: The model is not there, or does something else than churn.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != CUSTOMER_ID:
        return False
    signature = service.model_for("churn", request.model_name).stable.signature
    return all(spec.name != CUSTOMER_ID for spec in signature.inputs)


async def looked_up(
    request: pb.ModelInferRequest, call: InferCall, features: OnlineFeatures
) -> tuple[InferCall, list[Freshness]]:
    """The call with the customers' features for its inputs, and how the store knew each of them.

    Raises:
        InvalidRequestError: The tensor cannot be used; the message says why.
        RequestError: As ``OnlineFeatures.fetch``.
    """
    ids = _ids(request, features.max_customers)
    fetched = await features.fetch(ids, call.deadline)

    def decode(loaded: LoadedVersion) -> tuple[Columns, int]:
        check_output_names(loaded.signature, [output.name for output in request.outputs])
        return fetched.decode(loaded)

    routing_key = key_of(ids[0]) if call.routing_key is None else call.routing_key
    return replace(call, decode=decode, routing_key=routing_key), fetched.freshness


def _ids(request: pb.ModelInferRequest, max_customers: int) -> Sequence[int | str]:
    tensor = request.inputs[0]
    spec = _KINDS.get(tensor.datatype)
    if spec is None:
        raise InvalidRequestError(
            f"input {CUSTOMER_ID!r} must have datatype INT64 or BYTES, got {tensor.datatype or 'none'}"
        )
    check_raw_contents(request)
    rows = check_shape(spec, tensor.shape, max_rows=max_customers)
    values = as_array(spec, column_of(request, 0, spec, rows))
    return [one or "" for one in text(values)] if spec.datatype == "BYTES" else values.tolist()
