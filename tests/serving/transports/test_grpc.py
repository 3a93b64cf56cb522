"""The Open Inference Protocol over gRPC, asked by grpcio."""

import struct

import grpc
import numpy as np
import pytest

from serving._proto import open_inference_pb2 as pb
from tests.serving.conftest import Live, rating_request, scores_of

pytestmark = pytest.mark.system


def refused(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    return caught.value.code(), caught.value.details()


def test_raw_tensors_get_the_right_scores(live: Live) -> None:
    answer = live.stub.ModelInfer(rating_request([7, 15, 99], [10, 20, 40]))
    assert scores_of(answer) == pytest.approx([3.1, 3.7, 4.0])
    assert (answer.model_name, answer.model_version) == ("mf", "1")
    assert (answer.outputs[0].name, list(answer.outputs[0].shape)) == ("score", [3])
    assert answer.parameters["arm"].string_param == "stable"
    assert answer.parameters["prediction_id"].string_param.startswith("mf.1.")


def test_typed_tensors_get_the_same(live: Live) -> None:
    request = pb.ModelInferRequest(
        model_name="mf",
        id="mine",
        inputs=[
            {"name": "item_id", "datatype": "INT64", "shape": [2], "contents": {"int64_contents": [10, 50]}},
            {"name": "user_id", "datatype": "INT64", "shape": [2], "contents": {"int64_contents": [7, 400]}},
        ],
    )
    answer = live.stub.ModelInfer(request)
    assert (answer.id, scores_of(answer)) == ("mine", pytest.approx([3.1, 1.3]))


def test_text_and_missing_values(live: Live) -> None:
    texts = [b"One year", b"", "Monat für Monat".encode()]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    request = pb.ModelInferRequest(
        model_name="churn",
        inputs=[
            {"name": "contract", "datatype": "BYTES", "shape": [3]},
            {"name": "tenure", "datatype": "FP32", "shape": [3]},
        ],
        raw_input_contents=[raw, np.array([30, np.nan, 30], "<f4").tobytes()],
    )
    logits = np.array([-2.5, -1.5, -1.5])
    assert scores_of(live.stub.ModelInfer(request)) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)


def test_metadata_readiness_and_index(live: Live) -> None:
    metadata = live.stub.ModelMetadata(pb.ModelMetadataRequest(name="churn"))
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("contract", "BYTES", [-1]),
        ("tenure", "FP32", [-1]),
    ]
    assert live.stub.ServerLive(pb.ServerLiveRequest()).live
    assert live.stub.ServerReady(pb.ServerReadyRequest()).ready
    assert live.stub.ModelReady(pb.ModelReadyRequest(name="mf", version="1")).ready
    assert not live.stub.ModelReady(pb.ModelReadyRequest(name="mf", version="2")).ready
    assert not live.stub.ModelReady(pb.ModelReadyRequest(name="none")).ready
    index = live.stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert [(m.name, m.version, m.state) for m in index.models] == [("churn", "1", "READY"), ("mf", "1", "READY")]
    assert live.stub.ServerMetadata(pb.ServerMetadataRequest()).name == "driftwheel"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"model_name": "nope"}, "NOT_FOUND", "no model 'nope'; served: churn, mf"),
        ({"model_version": "9"}, "NOT_FOUND", "no loaded version 9; loaded: 1"),
        ({"model_version": "new"}, "NOT_FOUND", "versions are whole numbers, got 'new'"),
        ({"inputs": []}, "INVALID_ARGUMENT", "input 'user_id' is missing; the model takes user_id, item_id"),
        (
            {"raw_input_contents": [b"x"]},
            "INVALID_ARGUMENT",
            "raw_input_contents must hold all 2 inputs or none, got 1",
        ),
        (
            {"raw_input_contents": [b"1234", b"12345678"]},
            "INVALID_ARGUMENT",
            "'user_id' of shape [1] and datatype INT64",
        ),
        ({"outputs": [{"name": "x"}]}, "INVALID_ARGUMENT", "output 'x' is unknown; the model gives score"),
    ],
)
def test_bad_requests_name_the_field(live: Live, change: dict, code: str, says: str) -> None:
    request = rating_request([7], [10])
    for name in change:
        request.ClearField(name)
    request.MergeFrom(pb.ModelInferRequest(**change))
    actual, details = refused(live.stub.ModelInfer, request)
    assert (actual.name, says in details) == (code, True), details


@pytest.mark.parametrize(
    ("tensor", "code", "says"),
    [
        ({"datatype": "FP32"}, "INVALID_ARGUMENT", "input 'item_id' must have datatype INT64, got FP32"),
        ({"shape": [1, 1]}, "INVALID_ARGUMENT", "input 'item_id' must have shape [rows], got [1, 1]"),
        ({"shape": [0]}, "INVALID_ARGUMENT", "must have at least one row"),
        ({"shape": [-1]}, "INVALID_ARGUMENT", "must have at least one row"),
        ({"shape": [3000]}, "RESOURCE_EXHAUSTED", "has 3000 rows; one request may have at most 2000"),
        ({"name": "item"}, "INVALID_ARGUMENT", "input 'item_id' is missing"),
    ],
)
def test_bad_tensors_name_the_field(live: Live, tensor: dict, code: str, says: str) -> None:
    request = rating_request([7], [10])
    for name, value in tensor.items():
        request.inputs[1].ClearField(name)
        request.inputs[1].MergeFrom(pb.ModelInferRequest.InferInputTensor(**{name: value}))
    actual, details = refused(live.stub.ModelInfer, request)
    assert (actual.name, says in details) == (code, True), details


def test_inputs_of_different_lengths_are_refused(live: Live) -> None:
    code, details = refused(live.stub.ModelInfer, rating_request([7, 15], [10]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "all inputs must have the same number of rows: user_id has 2, item_id has 1"


def test_an_infinite_number_is_refused(live: Live) -> None:
    request = pb.ModelInferRequest(
        model_name="churn",
        inputs=[
            {"name": "contract", "datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": [b"", b""]}},
            {"name": "tenure", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1, np.inf]}},
        ],
    )
    code, details = refused(live.stub.ModelInfer, request)
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'tenure' must be finite (NaN where missing), got inf in row 1",
    )


def test_an_unknown_method_is_unimplemented(live: Live) -> None:
    with grpc.insecure_channel(live.address.target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/Nope")
        assert refused(call, b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused_and_the_connection_lives(live: Live) -> None:
    request = rating_request([7], [10], id="x" * 100_000)
    code, details = refused(live.stub.ModelInfer, request)
    assert (code.name, "65536" in details or "65541" in details) == ("RESOURCE_EXHAUSTED", True)
    assert scores_of(live.stub.ModelInfer(rating_request([7], [10]))) == pytest.approx([3.1])


def test_a_message_that_quotes_a_long_name_still_arrives(live: Live) -> None:
    code, details = refused(live.stub.ModelInfer, pb.ModelInferRequest(model_name="ä\n" * 10_000))
    assert (code, len(details)) == (grpc.StatusCode.NOT_FOUND, 1000)


def test_gzip_is_read(live: Live) -> None:
    answer = live.stub.ModelInfer(rating_request([7], [10]), compression=grpc.Compression.Gzip)
    assert scores_of(answer) == pytest.approx([3.1])


def test_a_timeout_in_the_message_counts_like_a_deadline(live: Live) -> None:
    late = rating_request([7], [10])
    late.parameters["timeout"].int64_param = 0
    assert refused(live.stub.ModelInfer, late)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    in_time = rating_request([7], [10])
    in_time.parameters["timeout"].int64_param = 60_000_000
    assert scores_of(live.stub.ModelInfer(in_time)) == pytest.approx([3.1])
    for wrong in ({"string_param": "1s"}, {"int64_param": -1}):
        request = rating_request([7], [10])
        request.parameters["timeout"].CopyFrom(pb.InferParameter(**wrong))
        code, message = refused(live.stub.ModelInfer, request)
        assert (code, "'timeout' must be a whole number of microseconds" in message) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )
