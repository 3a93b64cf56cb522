"""The headers that say who answers, over every protocol of a real server with a candidate on trial."""

import json
import time
from collections.abc import Generator

import grpc
import httpx
import pytest

from driftwheel.client import Client
from driftwheel.rollout import abort, start_candidate
from serving._proto import driftwheel_pb2 as recommender
from serving._proto import open_inference_pb2 as pb
from serving._proto import torchserve_inference_pb2 as torchserve
from serving.split import Split
from tests.serving.conftest import BY, Live, connected, prepared_home, rating_request, running

HEADER = "x-driftwheel-arm"
SCORE = {"user_id": 7, "item_id": 10}
INFER = {
    "inputs": [{"name": name, "datatype": "INT64", "shape": [1], "data": [value]} for name, value in SCORE.items()]
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """Version 2 has no user: who gets it has asked for it."""
    settings = prepared_home(tmp_path_factory.mktemp("home"))
    start_candidate(settings.rollouts, "mf", 2, steps=(0.0, 1.0), shadow=0.0001, **BY)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        end = time.monotonic() + 60
        while live.http.get("/v2/models/mf/versions/2/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield live


@pytest.mark.parametrize(("asked", "version"), [("candidate", 2), ("control", 1), ("stable", 1), ("2", 2), ("1", 1)])
def test_each_protocol_heeds_it(trial: Live, asked: str, version: int) -> None:
    headers, metadata = {HEADER: asked}, ((HEADER, asked),)

    def post(path: str, body: object) -> httpx.Response:
        return trial.http.post(path, json=body, headers=headers).raise_for_status()

    infer = post("/v2/models/mf/infer", INFER).json()
    assert (infer["model_version"], infer["parameters"]["arm"]) == (str(version), "pinned")
    recommended = post("/v1/recommend", {"user_id": 7, "k": 1}).json()
    assert (recommended["version"], recommended["arm"]) == (version, "pinned")
    assert post("/predictions/mf", [SCORE]).headers["x-prediction-id"].startswith(f"mf.{version}.")
    for _ in range(2):  # the second time its form is known
        answer = trial.stub.ModelInfer(rating_request([7], [10]), metadata=metadata)
        assert (answer.model_version, answer.parameters["arm"].string_param) == (str(version), "pinned")
    streamed = next(trial.stub.ModelStreamInfer(iter([rating_request([7], [10])]), metadata=metadata))
    assert streamed.infer_response.model_version == str(version)
    with grpc.insecure_channel(trial.address.target) as channel:
        question = recommender.RecommendRequest(users=[{"user_id": 7, "k": 1}])
        call = channel.unary_unary(
            "/driftwheel.v1.Recommender/Recommend",
            request_serializer=recommender.RecommendRequest.SerializeToString,
            response_deserializer=recommender.RecommendResponse.FromString,
        )
        assert call(question, metadata=metadata).results[0].version == version
        scored = torchserve.PredictionsRequest(model_name="mf", input={"data": json.dumps([SCORE]).encode()})
        predict = channel.unary_unary(
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
            request_serializer=torchserve.PredictionsRequest.SerializeToString,
            response_deserializer=torchserve.PredictionResponse.FromString,
        )
        told = dict(predict.with_call(scored, metadata=metadata)[1].initial_metadata())
        assert told["x-prediction-id"].startswith(f"mf.{version}.")
    with Client(trial.address.target, headers=lambda: headers) as client:
        assert client.recommend(7, 1).version == version


def test_a_version_that_the_request_names_goes_before_it(trial: Live) -> None:
    headers = {HEADER: "candidate"}
    assert trial.http.post("/v2/models/mf/versions/1/infer", json=INFER, headers=headers).json()["model_version"] == "1"
    body = {"user_id": 7, "version": 1}
    assert trial.http.post("/v1/recommend", json=body, headers=headers).json()["version"] == 1
    answer = trial.stub.ModelInfer(rating_request([7], [10], model_version="1"), metadata=((HEADER, "candidate"),))
    assert answer.model_version == "1"


@pytest.mark.parametrize("asked", ["shadow", "pinned", "Candidate", "-1", "1.0", "9" * 12, "x" * 200])
def test_what_is_no_arm_is_refused(trial: Live, asked: str) -> None:
    expected = "header x-driftwheel-arm must be candidate, control, stable or a version, got "
    refused = trial.http.post("/v1/recommend", json={"user_id": 7}, headers={HEADER: asked})
    assert (refused.status_code, expected in refused.json()["error"]) == (400, True)
    path = "/v2/models/mf/versions/1/infer"
    assert trial.http.post(path, json=INFER, headers={HEADER: asked}).status_code == 400
    for ask in (
        trial.stub.ModelInfer,
        lambda one, metadata: next(trial.stub.ModelStreamInfer(iter([one]), metadata=metadata)),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            ask(rating_request([7], [10]), metadata=((HEADER, asked),))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert expected in raised.value.details()


def test_what_is_not_there_is_not_found(trial: Live) -> None:
    refused = trial.http.post("/v1/recommend", json={"user_id": 7}, headers={HEADER: "9"})
    assert (refused.status_code, refused.json()["error"]) == (404, "model 'mf' has no loaded version 9; loaded: 1, 2")
    body = {"customers": [{"contract": "One year"}]}
    refused = trial.http.post("/v1/churn", json=body, headers={HEADER: "candidate"})
    assert (refused.status_code, refused.json()["error"]) == (404, "model 'churn' has no candidate that can answer")
    assert trial.http.post("/v1/churn", json=body, headers={HEADER: "stable"}).json()["arm"] == "pinned"


@pytest.fixture(scope="module")
def halved(trial: Live) -> dict[int, str]:
    """Half of all keys get version 2: a key of each version."""
    folder = trial.settings.rollouts
    abort(folder, "mf", **BY)
    split = Split(start_candidate(folder, "mf", 2, steps=(0.5, 1.0), **BY))
    keys = {split.place(key.encode())[1]: key for key in map(str, range(1000, 1020))}
    end = time.monotonic() + 60
    while trial.stub.ModelInfer(keyed(keys[2])).model_version != "2":
        assert time.monotonic() < end
        time.sleep(0.05)
    return keys


def keyed(key: str) -> pb.ModelInferRequest:
    request = rating_request([7], [10])
    request.parameters["routing_key"].string_param = key
    return request


@pytest.mark.parametrize("version", [1, 2])
def test_each_protocol_splits_by_the_key_of_a_header(trial: Live, halved: dict[int, str], version: int) -> None:
    headers = {"x-driftwheel-routing-key": halved[version]}
    metadata, other = tuple(headers.items()), halved[3 - version]

    def post(path: str, body: object) -> httpx.Response:
        return trial.http.post(path, json=body, headers=headers).raise_for_status()

    assert post("/v2/models/mf/infer", INFER).json()["model_version"] == str(version)
    named = {**INFER, "parameters": {"routing_key": other}}
    assert post("/v2/models/mf/infer", named).json()["model_version"] == str(3 - version)
    both = post("/v1/recommend", {"users": [{"user_id": 7, "k": 1}, {"user_id": 8, "k": 1}]}).json()["results"]
    assert [one["version"] for one in both] == [version, version]
    assert post("/predictions/mf", [SCORE]).headers["x-prediction-id"].startswith(f"mf.{version}.")
    for _ in range(2):  # the second time its form is known
        assert trial.stub.ModelInfer(rating_request([7], [10]), metadata=metadata).model_version == str(version)
    assert trial.stub.ModelInfer(keyed(other), metadata=metadata).model_version == str(3 - version)
    streamed = next(trial.stub.ModelStreamInfer(iter([rating_request([7], [10])]), metadata=metadata))
    assert streamed.infer_response.model_version == str(version)
    with Client(trial.address.target, headers=lambda: headers) as client:
        assert client.recommend(7, 1).version == version
