"""KServe's own client over gRPC."""

import asyncio

import grpc
import numpy as np
import pytest

from tests.serving.conftest import Live
from tests.serving.transports.other_clients import kserve

pytestmark = pytest.mark.system


def test_everything_that_the_client_can_ask(live: Live) -> None:
    async def ask() -> None:
        async with kserve.InferenceGRPCClient(live.address.target) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("mf")
            answer = await client.infer(infer_request("mf", binary=True))
            assert answer.outputs[0].as_numpy() == pytest.approx([3.1, 3.7])
            assert (answer.model_name, answer.model_version) == ("mf", "1")
            answer = await client.infer(infer_request("mf", binary=False))
            assert answer.outputs[0].as_numpy() == pytest.approx([3.1, 3.7])
            with pytest.raises(grpc.RpcError, match="no model 'nope'"):
                await client.infer(infer_request("nope", binary=True))

    asyncio.run(ask())


def infer_request(model: str, *, binary: bool) -> kserve.InferRequest:
    inputs = [kserve.InferInput("user_id", [2], "INT64"), kserve.InferInput("item_id", [2], "INT64")]
    for tensor, values in zip(inputs, ([7, 15], [10, 20]), strict=True):
        tensor.set_data_from_numpy(np.array(values, dtype=np.int64), binary_data=binary)
    return kserve.InferRequest(model, inputs)
