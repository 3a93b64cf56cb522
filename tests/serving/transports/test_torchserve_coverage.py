"""What of TorchServe's interfaces is served and what is not, as docs/migrating-from-torchserve.md says."""

import grpc
import pytest

from tests.serving.conftest import Live

pytestmark = pytest.mark.system

ROWS = [{"user_id": 7, "item_id": 10}]
INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ping"),
        ("GET", "/models"),
        ("GET", "/models/mf"),
        ("GET", "/models/mf/1"),
        ("GET", "/models/mf/all"),
        ("GET", "/models/mf?customized=true"),
        ("POST", "/predictions/mf"),
        ("PUT", "/predictions/mf/1"),
        ("PUT", "/predictions/mf/1.0"),
        ("OPTIONS", "/"),
        ("GET", "/metrics"),
    ],
)
def test_served(live: Live, method: str, path: str) -> None:
    body = {"json": ROWS} if path.startswith("/predictions") else {}
    assert live.http.request(method, path, **body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/explanations/mf", 404),
        ("POST", "/explanations/mf/1", 404),
        ("POST", "/models/mf/invoke", 405),
        ("POST", "/invocations", 404),
        ("POST", "/v1/models/mf:predict", 404),
        ("POST", "/models?url=x.mar", 405),
        ("DELETE", "/models/mf/1", 405),
        ("PUT", "/models/mf?min_worker=2", 405),
        ("PUT", "/models/mf/2/set-default", 404),
        ("POST", "/workflows", 404),
        ("POST", "/wfpredict/x", 404),
        ("GET", "/token?type=inference", 404),
        ("GET", "/api-description", 404),
    ],
)
def test_not_served(live: Live, method: str, path: str, status: int) -> None:
    assert live.http.request(method, path, json=ROWS).status_code == status


@pytest.mark.parametrize(
    "method",
    [
        f"{INFERENCE}/StreamPredictions2",
        *(f"{MANAGEMENT}/{name}" for name in ("DescribeModel", "ListModels", "RegisterModel", "ScaleWorker")),
        *(f"{MANAGEMENT}/{name}" for name in ("SetDefault", "UnregisterModel")),
        "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ServerLive",
    ],
)
def test_not_served_over_grpc(live: Live, method: str) -> None:
    with grpc.insecure_channel(live.address.target) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(method)(b"", timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("body", [{"user_id": 7, "k": 2}, [{"user_index": 1, "item_index": 1}]])
def test_what_only_our_handlers_in_torchserve_take_is_refused(live: Live, body: object) -> None:
    answer = live.http.post("/predictions/mf", json=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException")
