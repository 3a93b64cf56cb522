"""Every example runs against a real server, and every line of docs/clients.md gives what it says."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.front_door import running
from tests.serving.conftest import prepared_home

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with running(prepared_home(tmp_path_factory.mktemp("home"))) as (_, address):
        yield address.target


def run(*command: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_examples_are_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "curl.sh",
        "driftwheel_example.py",
        "grpcurl.sh",
        "kserve_example.py",
        "tritonclient_example.py",
    }


@pytest.mark.system
def test_curl(target: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs Debian's curl")
    said = run(EXAMPLES / "curl.sh", target)
    assert "200\n" in said
    assert '"accepted":1' in said
    assert said.count('"prediction_id"') == 3


@pytest.mark.system
def test_grpcurl(target: str) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("needs grpcurl (github.com/fullstorydev/grpcurl)")
    said = run(EXAMPLES / "grpcurl.sh", target)
    assert '"status": "SERVING"' in said
    assert "inference.GRPCInferenceService" in said
    assert '"modelVersion": "1"' in said


def test_what_grpcurl_sends_is_what_the_server_takes(target: str) -> None:
    """Where grpcurl is not there: its JSON, turned into messages as it turns them, is answered."""
    script = (EXAMPLES / "grpcurl.sh").read_text()
    metadata, infer = re.findall(r"-d '(.*?)'", script, re.DOTALL)
    with grpc.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ModelMetadata(json_format.Parse(metadata, pb.ModelMetadataRequest())).name == "mf"
        assert stub.ModelInfer(json_format.Parse(infer, pb.ModelInferRequest())).outputs[0].shape == [2]


def test_tritonclient(target: str) -> None:
    said = run(sys.executable, EXAMPLES / "tritonclient_example.py", target)
    assert said.splitlines() == ["tritonclient.grpc scores [0.5 0.5]", "tritonclient.http scores [0.5 0.5]"]


def test_kserve(target: str) -> None:
    if find_spec("kserve") is None:  # not imported: its messages have the names of ours
        pytest.skip("needs kserve (the extra pipeline)")
    said = run(sys.executable, EXAMPLES / "kserve_example.py", target)
    assert "rest scores [0.5 0.5]" in said
    assert "grpc scores [0.5 0.5]" in said


def test_driftwheel(target: str) -> None:
    said = run(sys.executable, EXAMPLES / "driftwheel_example.py", target)
    assert "mf takes user_id (INT64), item_id (INT64)" in said
    assert "labels accepted: 1" in said
    assert "leaves with probability [0." in said


def test_the_document_on_clients(target: str) -> None:
    """Its blocks run in order, with ``server`` for the server's address."""
    done = doctest.testfile(
        str(ROOT / "docs" / "clients.md"),
        module_relative=False,
        globs={"server": target},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > 10
    assert done.failed == 0
