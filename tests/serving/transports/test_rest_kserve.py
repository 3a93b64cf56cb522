"""KServe's own REST client."""

import asyncio

import httpx
import numpy as np
import pytest

from tests.serving.conftest import Live
from tests.serving.transports.other_clients import kserve

pytestmark = pytest.mark.system


@pytest.mark.parametrize("binary", [True, False])
def test_everything_that_the_client_can_ask(live: Live, *, binary: bool) -> None:
    async def ask() -> None:
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
            assert await client.is_server_live(live.address.url)
            assert await client.is_server_ready(live.address.url)
            assert await client.is_model_ready(live.address.url, "mf")
            assert not await client.is_model_ready(live.address.url, "none")
            answer = await client.infer(live.address.url, request(binary=binary), model_name="mf")
            assert answer.outputs[0].as_numpy() == pytest.approx([3.1, 3.7])
            assert answer.model_name == "mf"
            with pytest.raises(httpx.HTTPStatusError, match="no model 'none'"):
                await client.infer(live.address.url, request(binary=binary), model_name="none")

    asyncio.run(ask())


def request(*, binary: bool) -> kserve.InferRequest:
    inputs = [kserve.InferInput("user_id", [2], "INT64"), kserve.InferInput("item_id", [2], "INT64")]
    for tensor, values in zip(inputs, ([7, 15], [10, 20]), strict=True):
        tensor.set_data_from_numpy(np.array(values, dtype=np.int64), binary_data=binary)
    return kserve.InferRequest("mf", inputs, parameters={"binary_data_output": binary})
