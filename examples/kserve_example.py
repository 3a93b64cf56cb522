"""KServe's client against a Driftwheel server: ``pip install kserve``.

python examples/kserve_example.py [HOST:PORT]
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

PAIRS = {"user_id": np.array([15, 7]), "item_id": np.array([318, 318])}


def request() -> InferRequest:
    """Two pairs of a user and an item, as raw tensors."""
    inputs = [InferInput(name, list(values.shape), "INT64") for name, values in PAIRS.items()]
    for tensor, values in zip(inputs, PAIRS.values(), strict=True):
        tensor.set_data_from_numpy(values, binary_data=True)
    return InferRequest(model_name="mf", infer_inputs=inputs)


async def main(target: str) -> None:
    """Ask for scores over REST and over gRPC."""
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    if await rest.is_server_ready(f"http://{target}"):
        answer = await rest.infer(f"http://{target}", request(), model_name="mf")
        print("rest scores", answer.outputs[0].as_numpy())
    await rest.close()
    async with InferenceGRPCClient(target, timeout=5.0) as grpc:
        answer = await grpc.infer(request())
        print("grpc scores", answer.outputs[0].as_numpy())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:8080"))
