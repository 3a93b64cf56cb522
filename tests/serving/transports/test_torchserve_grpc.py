"""TorchServe's inference API over gRPC, asked by a client that is generated from the .proto."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Generator
from pathlib import Path

import google.rpc
import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from driftwheel.errors import InvalidRequestError, NotFoundError
from serving._proto import torchserve_inference_pb2 as pb
from serving._proto.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from serving.transports.torchserve_codec import Instances, version_of
from tests.serving.conftest import Live

pytestmark = pytest.mark.system


@pytest.fixture
def stub(live: Live) -> Generator[InferenceAPIsServiceStub]:
    with grpc.insecure_channel(live.address.target) as channel:
        yield InferenceAPIsServiceStub(channel)


def asked(value: object, *, key: str = "data", model: str = "mf", **fields: str) -> pb.PredictionsRequest:
    return pb.PredictionsRequest(model_name=model, input={key: json.dumps(value).encode()}, **fields)


PAIR = {"user_id": 7, "item_id": 10}


def test_ping(stub: InferenceAPIsServiceStub) -> None:
    assert json.loads(stub.Ping(Empty(), timeout=60).health) == {"status": "Healthy"}


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ([PAIR, {"user_id": 15, "item_id": 20}], [3.1, 3.7]),
        (PAIR, [3.1]),
        ({"instances": [PAIR]}, {"predictions": [3.1]}),
    ],
)
@pytest.mark.parametrize("key", ["data", "body"])
def test_predictions(stub: InferenceAPIsServiceStub, value: object, answer: object, key: str) -> None:
    given = json.loads(stub.Predictions(asked(value, key=key), timeout=60).prediction)
    if isinstance(answer, dict):
        given, answer = given["predictions"], answer["predictions"]
    assert given == pytest.approx(answer)


@pytest.mark.parametrize("version", ["", "1", "1.0"])
def test_versions_and_the_prediction_id(stub: InferenceAPIsServiceStub, version: str) -> None:
    _, call = stub.Predictions.with_call(asked(PAIR, model_version=version), timeout=60)
    assert dict(call.initial_metadata())["x-prediction-id"].startswith("mf.1.")


def test_missing_categories_and_numbers(stub: InferenceAPIsServiceStub) -> None:
    request = asked([{"contract": "One year", "tenure": None}, {}], model="churn")
    first, second = json.loads(stub.Predictions(request, timeout=60).prediction)
    assert first < second < 0.5


def test_a_stream_of_one(stub: InferenceAPIsServiceStub) -> None:
    (response,) = stub.StreamPredictions(asked(PAIR), timeout=60)
    assert json.loads(response.prediction) == pytest.approx([3.1])


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (asked(PAIR, model="nope"), "NOT_FOUND", "no model 'nope'"),
        (asked(PAIR, model_version="2.0"), "NOT_FOUND", "no loaded version 2; loaded: 1"),
        (asked(PAIR, model_version="new"), "NOT_FOUND", "versions are whole numbers"),
        (asked(PAIR, key="user_id"), "INVALID_ARGUMENT", "the one key 'data' or 'body', with JSON; got user_id"),
        (pb.PredictionsRequest(model_name="mf"), "INVALID_ARGUMENT", "with JSON; got none"),
        (pb.PredictionsRequest(model_name="mf", input={"data": b"\xff{"}), "INVALID_ARGUMENT", "cannot be used"),
        (asked([]), "INVALID_ARGUMENT", "instances must hold at least one row"),
        (asked([PAIR] * 2001), "RESOURCE_EXHAUSTED", "has 2001 rows; one request may have at most 2000"),
        (asked([PAIR, {"user": 7}]), "INVALID_ARGUMENT", "instances[1] has the unknown input 'user'"),
        (asked([PAIR, {"user_id": 7}]), "INVALID_ARGUMENT", "instances[1] has no 'item_id'"),
        (asked([{"user_id": 7, "item_id": "x"}]), "INVALID_ARGUMENT", "'item_id' must hold whole numbers of 64 bits"),
        (asked([PAIR, 7]), "INVALID_ARGUMENT", "the body[1] must be an object of inputs, got 7"),
        (asked(7), "INVALID_ARGUMENT", "the body must be a list of objects, got 7"),
        (asked({"instances": PAIR}), "INVALID_ARGUMENT", "instances must be a list of objects"),
        (asked({"instances": [PAIR], "x": 1}), "INVALID_ARGUMENT", "nothing beside 'instances'"),
    ],
)
def test_bad_requests_say_why(stub: InferenceAPIsServiceStub, request_, code: str, says: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predictions(request_, timeout=60)
    assert (refused.value.code().name, says in refused.value.details()) == (code, True), refused.value.details()


def test_parsing() -> None:
    assert Instances.parse(b'[{"a": 1}]') == Instances([{"a": 1}], enveloped=False)
    assert (version_of(""), version_of("3"), version_of("3.0")) == (None, 3, 3)
    with pytest.raises(NotFoundError):
        version_of("3.1")
    with pytest.raises(InvalidRequestError):
        Instances.parse(b"")


SCRIPT = """
import sys
import grpc, inference_pb2, inference_pb2_grpc
from google.protobuf.empty_pb2 import Empty
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
    print(stub.Ping(Empty(), timeout=60).health)
    request = inference_pb2.PredictionsRequest(model_name="mf", input={"data": b'{"user_id": 7, "item_id": 10}'})
    print(stub.Predictions(request, timeout=60).prediction.decode())
"""


def test_a_client_made_from_torchserves_own_file(live: Live, tmp_path: Path) -> None:
    """Where TorchServe is installed: a client from the file in its archive."""
    torchserve = importlib.util.find_spec("ts")
    if torchserve is None or torchserve.origin is None:
        pytest.skip("needs the Python package torchserve")
    with zipfile.ZipFile(Path(torchserve.origin).parent / "frontend" / "model-server.jar") as archive:
        archive.extract("inference.proto", tmp_path)
    protos = Path(next(iter(google.rpc.__path__))).parents[1]
    generate = ["-m", "grpc_tools.protoc", f"-I{tmp_path}", f"-I{protos}", f"--python_out={tmp_path}"]
    generate += [f"--grpc_python_out={tmp_path}", "inference.proto"]
    subprocess.run([sys.executable, *generate], check=True)
    asked = [sys.executable, "-c", SCRIPT, live.address.target]
    answered = subprocess.run(asked, check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert answered.stdout.splitlines() == ["{", '  "status": "Healthy"', "}", "[3.0999999046325684]"]
