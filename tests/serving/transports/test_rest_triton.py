"""Triton's own HTTP clients, and its binary tensors by hand."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from serving.access import Role
from serving.front_door import running
from serving.tokens import add_token
from tests.serving.conftest import Live, connected, prepared_home

pytestmark = pytest.mark.system

SCORES = pytest.approx([3.1, 3.7])


@pytest.fixture(scope="module")
def client(live: Live) -> Generator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live.address.target) as made:
        yield made


def tensors(users: list[int], items: list[int], *, binary: bool = True, aio: bool = False) -> list[triton.InferInput]:
    module = triton_aio if aio else triton
    made = []
    for name, values in (("user_id", users), ("item_id", items)):
        tensor = module.InferInput(name, [len(values)], "INT64")
        tensor.set_data_from_numpy(np.array(values, dtype=np.int64), binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", [None, [("score", True)], [("score", False)]])
def test_infer_with_bytes_and_with_json(
    client: triton.InferenceServerClient, *, binary_in: bool, outputs: list | None
) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name, binary in outputs] if outputs else None
    answer = client.infer("mf", tensors([7, 15], [10, 20], binary=binary_in), outputs=wanted, request_id="mine")
    assert answer.as_numpy("score") == SCORES
    assert answer.get_response()["id"] == "mine"
    assert ("data" in answer.get_output("score")) == (outputs == [("score", False)])


def test_text_and_missing_numbers_as_bytes(client: triton.InferenceServerClient) -> None:
    contract, tenure = triton.InferInput("contract", [3], "BYTES"), triton.InferInput("tenure", [3], "FP32")
    contract.set_data_from_numpy(np.array([b"One year", b"", b"Two decades"], dtype=object))
    tenure.set_data_from_numpy(np.array([30, np.nan, np.nan], dtype=np.float32))
    answer = client.infer("churn", [contract, tenure])
    assert answer.as_numpy("churn_probability") == pytest.approx([0.0758582, 0.1824255, 0.1824255], abs=1e-6)


@pytest.mark.parametrize("request_by", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_by", [None, "gzip", "deflate"])
def test_compression_both_ways(
    client: triton.InferenceServerClient, request_by: str | None, response_by: str | None
) -> None:
    rows = 1500
    answer = client.infer(
        "mf",
        tensors([7] * rows, [10] * rows),
        request_compression_algorithm=request_by,
        response_compression_algorithm=response_by,
    )
    assert answer.as_numpy("score") == pytest.approx([3.1] * rows)


def test_the_aio_client_in_bytes_compressed_and_many_at_once(live: Live) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(live.address.target) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("mf", "1")
            asked = [client.infer("mf", tensors([7, 15], [10, 20], aio=True)) for _ in range(20)]
            for answer in await asyncio.gather(*asked):
                assert answer.as_numpy("score") == SCORES
            answer = await client.infer(
                "mf",
                tensors([7] * 1500, [10] * 1500, aio=True),
                request_compression_algorithm="gzip",
                response_compression_algorithm="gzip",
            )
            assert answer.as_numpy("score") == pytest.approx([3.1] * 1500)
            with pytest.raises(InferenceServerException, match="no model 'nope'"):
                await client.infer("nope", tensors([7], [10], aio=True))

    asyncio.run(ask())


def test_what_a_client_asks_about_the_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mf")
    assert not client.is_model_ready("mf", "9")
    assert not client.is_model_ready("none")
    assert {"binary_tensor_data", "statistics"} <= set(client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata("mf", "1")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["user_id", "item_id"]
    assert [(one["name"], one["state"]) for one in client.get_model_repository_index()] == [
        ("churn", "READY"),
        ("mf", "READY"),
    ]


def test_configuration(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("churn")
    assert (config["name"], config["max_batch_size"], config["backend"]) == ("churn", 0, "onnxruntime")
    assert config["input"] == [
        {"name": "contract", "data_type": "TYPE_STRING", "dims": [-1]},
        {"name": "tenure", "data_type": "TYPE_FP32", "dims": [-1]},
    ]
    assert config["output"] == [{"name": "churn_probability", "data_type": "TYPE_FP32", "dims": [-1]}]
    assert client.get_model_config("churn", "1") == config
    with pytest.raises(InferenceServerException, match="no loaded version 9"):
        client.get_model_config("churn", "9")


def test_statistics(client: triton.InferenceServerClient) -> None:
    def counted() -> tuple[int, int, int]:
        (one,) = client.get_inference_statistics("mf", "1")["model_stats"]
        return one["inference_count"], one["execution_count"], one["inference_stats"]["success"]["count"]

    before = counted()
    client.infer("mf", tensors([7, 15], [10, 20]))
    assert counted() == (before[0] + 2, before[1] + 1, before[2] + 1)
    names = [one["name"] for one in client.get_inference_statistics()["model_stats"]]
    assert names == ["churn", "mf"]
    (mf,) = client.get_inference_statistics("mf")["model_stats"]
    assert mf["last_inference"] > 1_700_000_000_000
    assert mf["inference_stats"]["compute_infer"]["ns"] > 0


def test_what_is_not_offered_says_so(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="log settings are not changed"):
        client.get_log_settings()
    with pytest.raises(InferenceServerException, match="trace settings are not changed"):
        client.get_trace_settings("mf")
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        client.get_system_shared_memory_status()
    with pytest.raises(InferenceServerException, match="admin methods are off"):
        client.load_model("mf")


def test_loading_and_unloading_with_an_admin_token(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    admin, infer = (add_token(tokens, role, frozenset({role})) for role in (Role.ADMIN, Role.INFER))
    settings = prepared_home(tmp_path / "home", security={"token_file": tokens})
    as_admin, as_infer = {"Authorization": f"Bearer {admin}"}, {"Authorization": f"Bearer {infer}"}
    with running(settings) as (door, address), connected(settings, door, address) as live:

        def post(path: str, headers: dict, **parameters: object) -> tuple[int, dict]:
            answer = live.http.post(path, json={"parameters": parameters}, headers=headers)
            return answer.status_code, answer.json()

        load, unload, second = (
            f"/v2/{path}"
            for path in ("repository/models/mf/load", "repository/models/mf/unload", "models/mf/versions/2/ready")
        )
        assert live.http.post(load).status_code == 401
        assert live.http.post(load).headers["www-authenticate"] == "Bearer"
        assert post(load, as_infer)[0] == 403
        assert live.http.get(second, headers=as_infer).status_code == 404
        assert post(load, as_admin, version=2) == (200, {})
        assert live.http.get(second, headers=as_infer).status_code == 200
        assert post(unload, as_admin, version="2") == (200, {})
        assert live.http.get(second, headers=as_infer).status_code == 404
        assert post(load, as_admin, version=9)[0] in (404, 503)
        status, fault = post(load, as_admin, config="{}")
        assert (status, "models come from the models folder" in fault["error"]) == (400, True)
        assert post(load, as_admin, version=-1)[0] == 400
        with triton.InferenceServerClient(address.target) as client:
            client.unload_model("mf", headers=dict(as_admin))
            assert not client.is_model_ready("mf", headers=dict(as_infer))
            client.load_model("mf", headers=dict(as_admin))
            assert client.is_model_ready("mf", headers=dict(as_infer))


def test_the_bytes_on_the_wire(live: Live) -> None:
    users, items = np.array([7, 15], "<i8").tobytes(), np.array([10, 20], "<i8").tobytes()
    head = {
        "inputs": [
            {"name": "user_id", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
            {"name": "item_id", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
        ],
        "parameters": {"binary_data_output": True},
    }
    answer = post_binary(live, head, users + items)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    described = json.loads(answer.content[:length])
    assert described["outputs"] == [
        {"name": "score", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    ]
    assert np.frombuffer(answer.content[length:], "<f4") == SCORES


def post_binary(live: Live, head: dict, tail: bytes, **headers: str):
    text = json.dumps(head).encode()
    return live.http.post(
        "/v2/models/mf/infer",
        content=text + tail,
        headers={"inference-header-content-length": str(len(text)), **headers},
    )


def two(**changes: object) -> dict:
    """A request for one row, its second tensor with other fields or parameters."""
    first = {"name": "user_id", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}
    second = {"name": "item_id", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}, **changes}
    return {"inputs": [first, second]}


ROW = np.array([7, 10], "<i8").tobytes()


@pytest.mark.parametrize(
    ("head", "tail", "says"),
    [
        (two(), ROW + b"x", "1 bytes after its tensors"),
        (two(), ROW[:-1], "'item_id': binary_data_size must be at most the 7 bytes left, got 8"),
        (two(parameters={"binary_data_size": 4}), ROW[:12], "must have 8 bytes of raw content, got 4"),
        (two(parameters={"binary_data_size": -1}), ROW, "must be at most the 8 bytes left, got -1"),
        (two(parameters={"binary_data_size": "8"}), ROW, "got '8'"),
        (two(parameters={"binary_data_size": True}), ROW, "got True"),
        (two(parameters={}), ROW[:8], "'item_id' has neither data nor binary_data_size"),
        (two(data=[10]), ROW, "'item_id' has both data and binary_data_size"),
        (two(parameters={"shared_memory_region": "x"}), ROW[:8], "names a shared memory region"),
        (
            two() | {"outputs": [{"name": "score", "parameters": {"classification": 2}}]},
            ROW,
            "classification is not offered",
        ),
        (
            two() | {"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]},
            ROW,
            "'binary_data' must be true or false",
        ),
        (two() | {"parameters": {"binary_data_output": "yes"}}, ROW, "'binary_data_output' must be true or false"),
        (two() | {"outputs": [{"name": "other"}]}, ROW, "output 'other' is unknown"),
    ],
)
def test_bytes_that_do_not_fit(live: Live, head: dict, tail: bytes, says: str) -> None:
    answer = post_binary(live, head, tail)
    assert (answer.status_code, says in answer.json()["error"]) == (400, True), answer.text


@pytest.mark.parametrize(
    ("length", "says"),
    [
        ("999", "within the body of"),
        ("-1", "got '-1'"),
        ("x", "got 'x'"),
        ("", "got ''"),
        ("0", "models with one input"),
        ("5", "the body cannot be used"),
    ],
)
def test_a_length_that_does_not_fit(live: Live, length: str, says: str) -> None:
    answer = post_binary(live, two(), ROW, **{"inference-header-content-length": length})
    assert (answer.status_code, says in answer.json()["error"]) == (400, True), answer.text
