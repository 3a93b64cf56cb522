"""TorchServe's REST API, as its users call it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.conftest import Live

pytestmark = pytest.mark.system

ROWS = [{"user_id": 7, "item_id": 10}, {"user_id": 15, "item_id": 20}]
SCORES = pytest.approx([3.1, 3.7])


@pytest.mark.parametrize("path", ["/predictions/mf", "/predictions/mf/1", "/predictions/mf/1.0", "/predictions/mf/"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_predictions(live: Live, method: str, path: str) -> None:
    answer = live.http.request(method, path, json=ROWS)
    assert (answer.status_code, answer.json()) == (200, SCORES)
    assert answer.headers["x-prediction-id"].startswith("mf.1.")


def test_one_row_and_the_envelope(live: Live) -> None:
    assert live.http.post("/predictions/mf", json=ROWS[0]).json() == pytest.approx([3.1])
    answer = live.http.post("/predictions/mf", json={"instances": ROWS}).json()
    assert answer["predictions"] == SCORES


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", "image/png", None])
def test_json_under_any_name(live: Live, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert live.http.post("/predictions/mf", content=json.dumps(ROWS), headers=headers).json() == SCORES


@pytest.mark.parametrize("field", ["data", "body"])
def test_forms(live: Live, field: str) -> None:
    text = json.dumps(ROWS)
    assert live.http.post("/predictions/mf", files={field: ("rows.json", text)}).json() == SCORES
    assert live.http.post("/predictions/mf", data={field: text}).json() == SCORES


@pytest.mark.parametrize(
    "arguments",
    [["-T", "{file}"], ["-F", "data=@{file}"], ["-d", "@{file}"], ["--data-binary", "@{file}"]],
    ids=lambda a: a[0],
)
def test_curl(live: Live, tmp_path: Path, arguments: list[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs Debian's curl")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    spelt = [one.format(file=tmp_path / "rows.json") for one in arguments]
    done = subprocess.run(
        ["curl", "-s", "--fail-with-body", f"{live.address.url}/predictions/mf", *spelt],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == SCORES


def test_health_listing_and_description(live: Live) -> None:
    assert live.http.get("/ping").json() == {"status": "Healthy"}
    assert live.http.get("/models").json() == {
        "models": [{"modelName": "churn", "modelUrl": "churn/1"}, {"modelName": "mf", "modelUrl": "mf/1"}]
    }
    first = live.http.get("/models?limit=1").json()
    assert ([m["modelName"] for m in first["models"]], first["nextPageToken"]) == (["churn"], "1")
    second = live.http.get(f"/models?limit=1&next_page_token={first['nextPageToken']}").json()
    assert ([m["modelName"] for m in second["models"]], "nextPageToken" in second) == (["mf"], False)
    (described,) = live.http.get("/models/mf").json()
    assert (described["modelName"], described["modelVersion"]) == ("mf", "1")
    assert described["workers"][0]["status"] == "READY"
    assert live.http.get("/models/mf/all").json() == live.http.get("/models/mf/1.0").json() == [described]


@pytest.mark.parametrize(
    ("path", "content", "status", "kind", "says"),
    [
        ("/predictions/none", b"[{}]", 404, "ModelNotFoundException", "no model 'none'"),
        ("/predictions/mf/9", json.dumps(ROWS), 404, "ModelNotFoundException", "no loaded version 9"),
        ("/predictions/mf/x", json.dumps(ROWS), 404, "ModelNotFoundException", "versions are whole numbers, got 'x'"),
        ("/predictions/mf", b"{", 400, "BadRequestException", "the body cannot be used"),
        ("/predictions/mf", b'[{"user_id": 7}]', 400, "BadRequestException", "instances[0] has no 'item_id'"),
        ("/predictions/mf", b'[{"user_id": 7, "item": 1}]', 400, "BadRequestException", "unknown input 'item'"),
        ("/predictions/mf", b"[]", 400, "BadRequestException", "at least one row"),
    ],
)
def test_errors_are_torchserves(live: Live, path: str, content: bytes, status: int, kind: str, says: str) -> None:
    answer = live.http.post(path, content=content)
    fault = answer.json()
    assert (answer.status_code, fault["code"], fault["type"], says in fault["message"]) == (
        status,
        status,
        kind,
        True,
    ), fault


def test_other_errors_are_torchserves_too(live: Live) -> None:
    answer = live.http.delete("/predictions/mf")
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST, PUT")
    assert answer.json()["type"] == "MethodNotAllowedException"
    assert live.http.get("/models?limit=x").json()["type"] == "BadRequestException"
    assert live.http.get("/models/none").json()["type"] == "ModelNotFoundException"
    assert live.http.post("/predictions/mf", content=b" " * 70_000).json()["type"] == "TooLongFrameException"


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("multipart/form-data", b"x", "must name its boundary"),
        ("multipart/form-data; boundary=b", b"x", "is not multipart/form-data"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="data"\r\n\r\n[]',
            "cut short",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n[]\r\n--b--\r\n',
            "got x",
        ),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n[]\r\n--b--\r\n", "the one key 'data' or 'body'"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "got none"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="data"\r\n\r\n[]\r\n' * 2 + b"--b--\r\n",
            "came twice",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="data"\r\n\r\n[]\r\n' * 17 + b"--b--\r\n",
            "16 fields",
        ),
        ("application/x-www-form-urlencoded", b"data=1&data=2", "came twice"),
        ("application/x-www-form-urlencoded", b"a=1", "got a"),
    ],
)
def test_forms_that_are_none(live: Live, kind: str, content: bytes, says: str) -> None:
    answer = live.http.post("/predictions/mf", content=content, headers={"content-type": kind})
    assert (answer.status_code, says in answer.json()["message"]) == (400, True), answer.text
