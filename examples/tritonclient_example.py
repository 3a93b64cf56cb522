"""Triton's client against a Driftwheel server: ``pip install tritonclient[grpc,http]``.

python examples/tritonclient_example.py [HOST:PORT]
"""

import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

PAIRS = {"user_id": np.array([15, 7]), "item_id": np.array([318, 318])}


def main(target: str) -> None:
    """Ask for scores over gRPC and over HTTP, which the client encodes with raw tensors both."""
    for kind in (over_grpc, over_http):
        client = kind.InferenceServerClient(target)
        inputs = [kind.InferInput(name, values.shape, "INT64") for name, values in PAIRS.items()]
        for tensor, values in zip(inputs, PAIRS.values(), strict=True):
            tensor.set_data_from_numpy(values)
        result = client.infer("mf", inputs, client_timeout=5.0) if kind is over_grpc else client.infer("mf", inputs)
        print(kind.__name__, "scores", result.as_numpy("score"))
        client.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:8080")
