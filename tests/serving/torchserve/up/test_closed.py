"""TorchServe as ``driftwheel torchserve up`` runs it is closed in fact."""

import contextlib
import socket
import struct
from pathlib import Path

import grpc
import httpx
import pytest

from serving._proto import torchserve_inference_pb2 as pb
from serving._proto.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from serving.torchserve.address import inference_token, management_token
from tests.serving.torchserve.in_worker import raw, scores
from tests.serving.torchserve.running import needs_java
from tests.serving.torchserve.up.home import Home, family, wait_for

pytestmark = [pytest.mark.system, needs_java]

ELSEWHERE = "http://127.0.0.1:9/model.mar"


@pytest.fixture
def keys(started: Home) -> list[str]:
    return [management_token(started.address) or "", inference_token(started.address) or ""]


def test_its_keys_and_folders_are_its_owners_alone(started: Home) -> None:
    assert Path(started.address.key_file or "").stat().st_mode & 0o777 == 0o600
    assert started.run.stat().st_mode & 0o777 == 0o700
    assert started.settings.torchserve_folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("token", [None, "wrong", "management"])
def test_no_prediction_without_the_key(started: Home, token: str | None) -> None:
    for path in ("/ping", "/predictions/mf/1", "/models"):
        assert "InvalidKeyException" in started.call("GET", started.address.http + path, token).text
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(started.address.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        request = pb.PredictionsRequest(model_name="mf", input={"user_id": raw(7), "item_id": raw(10)})
        InferenceAPIsServiceStub(channel).Predictions(request, timeout=60, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("token", [None, "wrong", "inference"])
def test_no_management_without_the_key(started: Home, token: str | None) -> None:
    calls = ("GET", "/models"), ("POST", f"/models?url={ELSEWHERE}"), ("PUT", "/models/mf/1?min_worker=0")
    for method, path in (*calls, ("DELETE", "/models/mf/1"), ("POST", f"/workflows?url={ELSEWHERE}")):
        assert "InvalidKeyException" in started.manage(method, path, token).text, path


def test_nothing_is_registered_even_with_the_key(started: Home) -> None:
    for url in (ELSEWHERE, "file:///etc/passwd", "mf-1.mar", "../store/mf-1.mar"):
        assert started.manage("POST", f"/models?url={url}").status_code == 405
    assert started.manage("DELETE", "/models/mf/1").status_code == 405
    assert [one["modelName"] for one in started.manage("GET", "/models").json()["models"]] == ["churn", "mf"]


def test_nothing_is_registered_over_grpc(started: Home) -> None:
    target = started_grpc_management(started)
    token = [("authorization", f"Bearer {management_token(started.address)}")]
    with grpc.insecure_channel(target) as channel:
        for name in ("RegisterModel", "UnregisterModel"):
            method = channel.unary_unary(f"/org.pytorch.serve.grpc.management.ManagementAPIsService/{name}")
            with pytest.raises(grpc.RpcError, match="Model API disabled"):
                method(b"", timeout=60, metadata=token)
            with pytest.raises(grpc.RpcError, match="Token Authorization failed"):
                method(b"", timeout=60)


def started_grpc_management(home: Home) -> str:
    lines = (home.run / "config.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    return f"127.0.0.1:{properties['grpc_management_port']}"


@pytest.mark.parametrize("url", [ELSEWHERE, "https://example.com/x.war", "file:///etc/passwd"])
def test_workflows_bring_no_code_either(started: Home, url: str) -> None:
    answer = started.manage("POST", f"/workflows?url={url}")
    assert (answer.status_code, "does not match any allowed URL" in answer.text) == (404, True)


def test_it_listens_on_loopback_alone(started: Home) -> None:
    inodes = set()
    for file in Path(f"/proc/{started.address.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed, as connections of other tests are
            if (target := str(file.readlink())).startswith("socket:["):
                inodes.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{started.address.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].rpartition(":")[0])
    loopback = struct.unpack("=I", socket.inet_aton("127.0.0.1"))[0]
    assert len(listening) == 5
    assert {one[-8:] for one in listening} == {f"{loopback:08X}"}


def test_workers_see_no_secrets_and_nothing_overrides_its_settings(started: Home) -> None:
    members = family(started.address.pid)
    assert len(members) == 3
    for pid in members:
        seen = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"a-secret-of-ours" not in seen
        assert b"TS_CONFIG_FILE" not in seen


def test_keys_are_on_no_command_line_and_in_no_log(started: Home, keys: list[str]) -> None:
    for pid in family(started.address.pid):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not any(key in line for key in keys)
    for file in started.run.rglob("*"):
        if file.is_file() and file.name != "key_file.json":
            assert not any(key.encode() in file.read_bytes() for key in keys), file


def test_calls_leave_metrics_and_no_lines(started: Home) -> None:
    log = started.run / "torchserve.log"
    before = log.read_text()
    token = [("authorization", f"Bearer {inference_token(started.address)}")]
    with grpc.insecure_channel(started.address.grpc) as channel:
        stub = InferenceAPIsServiceStub(channel)
        for _ in range(20):
            request = pb.PredictionsRequest(
                model_name="mf", model_version="1", input={"user_id": raw(7, 15), "item_id": raw(10, 20)}
            )
            answer = stub.Predictions(request, timeout=60, metadata=token).prediction
    assert scores(answer) == pytest.approx([3.1, 3.7])
    page = httpx.get(f"{started.address.metrics}/metrics").text
    (line,) = [
        one
        for one in page.splitlines()
        if one.startswith('ts_inference_requests_total{model_name="mf",model_version="1"')
    ]
    assert float(line.rpartition(" ")[2]) >= 20
    assert log.read_text() == before
    wait_for(lambda: 'DriftwheelRows{ModelName="mf"' in httpx.get(f"{started.address.metrics}/metrics").text)
