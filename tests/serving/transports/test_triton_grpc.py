"""Triton's own client over gRPC, sync and async."""

import asyncio
import queue
from collections.abc import Generator

import numpy as np
import pytest

from serving.about import PROTOCOL_EXTENSIONS
from serving.backends.factor_kernel import factor_kernel
from tests.serving.conftest import Live
from tests.serving.transports.other_clients import triton, triton_aio

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def client(live: Live) -> Generator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live.address.target) as client:
        yield client


def ids(users: list[int], items: list[int], kind=triton.InferInput) -> list:
    inputs = [kind("user_id", [len(users)], "INT64"), kind("item_id", [len(items)], "INT64")]
    for tensor, values in zip(inputs, (users, items), strict=True):
        tensor.set_data_from_numpy(np.array(values, dtype=np.int64))
    return inputs


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mf")
    assert not client.is_model_ready("mf", "9")
    server = client.get_server_metadata(as_json=True)
    assert (server["name"], server["extensions"]) == ("driftwheel", list(PROTOCOL_EXTENSIONS))
    model = client.get_model_metadata("churn", as_json=True)
    assert model["inputs"] == [
        {"name": "contract", "datatype": "BYTES", "shape": ["-1"]},
        {"name": "tenure", "datatype": "FP32", "shape": ["-1"]},
    ]


def test_config(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("mf").config
    platform = "onnxruntime_onnx" if factor_kernel() is None else "driftwheel_factors"
    assert (config.name, config.platform, config.backend) == ("mf", platform, platform.partition("_")[0])
    assert config.max_batch_size == 0  # Triton would add a dimension of its own
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
        ("user_id", 9, [-1]),
        ("item_id", 9, [-1]),
    ]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [("score", 11, [-1])]
    assert list(config.version_policy.specific.versions) == [1]
    assert config.parameters["max_rows_per_request"].string_value == "2000"
    with pytest.raises(triton.InferenceServerException, match="no loaded version 9"):
        client.get_model_config("mf", "9")


def test_statistics_count(client: triton.InferenceServerClient) -> None:
    before = statistics(client)
    client.infer("mf", ids([7, 15], [10, 20]))
    with pytest.raises(triton.InferenceServerException):
        client.infer("mf", ids([7], [10, 20]))
    after = statistics(client)
    assert after.inference_count - before.inference_count == 2
    assert after.execution_count - before.execution_count == 1
    stats, past = after.inference_stats, before.inference_stats
    assert stats.success.count - past.success.count == 1
    assert 0 < stats.compute_infer.ns - past.compute_infer.ns < stats.success.ns - past.success.ns
    assert after.last_inference > 1_700_000_000_000
    assert {stats.name for stats in client.get_inference_statistics().model_stats} == {"churn", "mf"}


def statistics(client: triton.InferenceServerClient):
    (one,) = client.get_inference_statistics("mf", "1").model_stats
    return one


def test_infer(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput("score")]
    answer = client.infer("mf", ids([7, 15], [10, 20]), outputs=wanted, request_id="mine", model_version="1")
    assert answer.as_numpy("score") == pytest.approx([3.1, 3.7])
    response = answer.get_response()
    assert (response.id, response.parameters["arm"].string_param) == ("mine", "pinned")


def test_text(client: triton.InferenceServerClient) -> None:
    contract, tenure = triton.InferInput("contract", [2], "BYTES"), triton.InferInput("tenure", [2], "FP32")
    contract.set_data_from_numpy(np.array([b"One year", "Monat für Monat".encode()], dtype=np.object_))
    tenure.set_data_from_numpy(np.array([30, np.nan], dtype=np.float32))
    probability = client.infer("churn", [contract, tenure]).as_numpy("churn_probability")
    assert probability == pytest.approx(1 / (1 + np.exp([2.5, 1.5])), abs=1e-6)


def test_gzip_both_ways(client: triton.InferenceServerClient, live: Live) -> None:
    answer = client.infer("mf", ids([7] * 300, [10] * 300), compression_algorithm="gzip")
    assert answer.as_numpy("score") == pytest.approx([3.1] * 300)
    answer = client.infer("mf", ids([7], [10]), compression_algorithm="deflate")
    assert answer.as_numpy("score") == pytest.approx([3.1])


def test_index(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index().models
    assert [(entry.name, entry.version, entry.state) for entry in index] == [
        ("churn", "1", "READY"),
        ("mf", "1", "READY"),
    ]


def test_loading_is_off_without_a_token(client: triton.InferenceServerClient) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(triton.InferenceServerException, match="admin methods are off") as refused:
            call("mf")
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


def test_what_is_not_served_says_so(client: triton.InferenceServerClient) -> None:
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(triton.InferenceServerException, match="is not served: ") as refused:
            call()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_stream_answers_in_order_and_survives_a_bad_request(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    try:
        for number in range(60):
            client.async_stream_infer("mf", ids([7] * (number + 1), [10] * (number + 1)), request_id=str(number))
        client.async_stream_infer("none", ids([7], [10]))
        client.async_stream_infer("mf", ids([15], [20]), request_id="last")
        got = [answers.get(timeout=20) for _ in range(62)]
    finally:
        client.stop_stream()
    assert [result.get_response().id for result, _ in got[:60]] == [str(number) for number in range(60)]
    assert [len(result.as_numpy("score")) for result, _ in got[:60]] == list(range(1, 61))
    assert "no model 'none'" in str(got[60][1])
    assert got[61][0].as_numpy("score") == pytest.approx([3.7])


def test_async_client(live: Live) -> None:
    async def infer_and_stream() -> tuple[list[float], list[float]]:
        async with triton_aio.InferenceServerClient(live.address.target) as client:
            assert await client.is_server_ready()
            answer = await client.infer("mf", ids([7, 15], [10, 20], triton_aio.InferInput))

            async def requests():
                for user in (7, 15, 400):
                    yield {"model_name": "mf", "inputs": ids([user], [10], triton_aio.InferInput)}

            streamed = [result.as_numpy("score")[0] async for result, _ in client.stream_infer(requests())]
            return answer.as_numpy("score").tolist(), streamed

    answered, streamed = asyncio.run(infer_and_stream())
    assert answered == pytest.approx([3.1, 3.7])
    assert streamed == pytest.approx([3.1, 3.2, 3.3])
