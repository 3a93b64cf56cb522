"""The OpenAPI page: what it says is what is served."""

import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from serving.access import Role
from serving.front_door import running
from serving.tokens import add_token
from tests.serving.conftest import Live, connected, prepared_home

pytestmark = pytest.mark.system

UNMENTIONED = re.compile(r"/v2/(logging|trace/|(system|cuda)sharedmemory/|models/{model}/trace/)")

SCHEMATHESIS = """\
[checks]
# The schema cannot say what the model in service takes, how many rows fit, or that a path's version is loaded.
positive_data_acceptance.expected-statuses = ["2xx", 400, 403, 404, 413, 504]
# 504 is the answer to "x-request-timeout-ms: 0".
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Generator[tuple[Live, str]]:
    """A server with a token file, and a token for everything but admin methods."""
    tokens = tmp_path / "tokens.toml"
    token = add_token(tokens, "fuzz", frozenset({Role.INFER, Role.FEEDBACK}))
    limits = {"port": 0, "max_request_bytes": 64 * 1024}
    settings = prepared_home(tmp_path / "home", serving=limits, security={"token_file": tokens})
    with running(settings) as (door, address), connected(settings, door, address) as server:
        yield server, token


@pytest.mark.slow
def test_schemathesis_finds_nothing(guarded: tuple[Live, str], tmp_path: Path) -> None:
    server, token = guarded
    config = tmp_path / "schemathesis.toml"
    config.write_text(SCHEMATHESIS)
    command = [
        Path(sys.executable).parent / "st",
        f"--config-file={config}",
        "run",
        f"{server.address.url}/openapi.json",
        f"--header=Authorization: Bearer {token}",
        "--checks=all",
        "--max-examples=25",
        "--generation-deterministic",
        "--no-color",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert server.http.get("/v2/health/ready").status_code == 200


def test_every_route_is_on_the_page_and_every_error_in_its_shape(live: Live) -> None:
    document = live.http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert live.http.options("/").json() == document
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "200" in operation["responses"], path
            for status, response in operation["responses"].items():
                if status != "200":
                    assert "application/json" in response["content"], (path, status)
    recommend = document["paths"]["/v1/recommend"]["post"]
    assert {"400", "401", "403", "404", "413", "415", "429", "503", "504"} <= set(recommend["responses"])


def test_what_is_not_on_the_page_is_not_offered() -> None:
    from serving.transports.oip_rest import OipRest
    from serving.transports.torchserve_rest import TorchServeRest
    from serving.transports.triton_rest import TritonRest
    from serving.transports.typed import Typed

    made = [OipRest.__new__(OipRest), Typed.__new__(Typed), TorchServeRest.__new__(TorchServeRest)]
    routes = [route for part in (*made, TritonRest.__new__(TritonRest)) for route in part.routes()]
    for route in routes:
        assert (route.doc is None) == bool(UNMENTIONED.match(route.path)), route.path


def test_examples_are_answered(live: Live) -> None:
    document = live.http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody")
        if body is None or path in (
            "/v1/feedback",
            "/v2/repository/models/{model}/load",
            "/v2/repository/models/{model}/unload",
        ):
            continue
        address = path.replace("{model}", "mf").replace("{version}", "1")
        answer = live.http.post(address, json=body["content"]["application/json"]["example"])
        assert answer.status_code == 200, (address, answer.text)


def test_the_page_needs_nothing_from_elsewhere(live: Live) -> None:
    answer = live.http.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script|https?://|@import|url\(", answer.text)
    anchors = set(re.findall(r'id="([^"]+)"', answer.text))
    assert set(re.findall(r'href="#([^"]+)"', answer.text)) <= anchors
    assert "/v2/models/{model}/infer" in answer.text
    assert live.http.get("/").text == answer.text


def test_schemas_are_those_of_the_structs(live: Live) -> None:
    from serving.transports.oip_json import InferJson

    document = live.http.get("/openapi.json").json()
    (_, components) = msgspec.json.schema_components([InferJson], ref_template="#/components/schemas/{name}")
    assert document["components"]["schemas"]["InferJson"] == msgspec.json.decode(
        msgspec.json.encode(components["InferJson"])
    )
