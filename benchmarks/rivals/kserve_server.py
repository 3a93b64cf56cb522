"""KServe's Python server over the same graph, as its documents show: a ``Model`` with ``predict``."""

import argparse
from typing import Any

import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer


class FactorModel(Model):
    """The graph behind KServe's data plane."""

    def __init__(self, graph: str) -> None:
        super().__init__("mf")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: Any, *args: object, **kwargs: object) -> InferResponse:
        """Score pairs."""
        del args, kwargs
        users, items = (tensor.as_numpy() for tensor in payload.inputs)
        (scores,) = self._session.run(None, {"user_index": users, "item_index": items})
        output = InferOutput("score", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        return InferResponse(payload.id or "", "mf", [output])


def main() -> None:
    """Serve one graph on one gRPC port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph")
    parser.add_argument("port", type=int)
    parser.add_argument("http_port", type=int)
    options = parser.parse_args()
    server = ModelServer(http_port=options.http_port, grpc_port=options.port, enable_grpc=True, workers=1)
    server.start([FactorModel(options.graph)])


if __name__ == "__main__":
    main()
