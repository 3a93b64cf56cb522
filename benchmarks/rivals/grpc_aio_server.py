"""A plain ``grpc.aio`` server of the Open Inference Protocol, as one writes it: parse, run the graph, answer."""

import argparse
import asyncio
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)


class Servicer(GRPCInferenceServiceServicer):
    """ModelInfer with raw tensors; nothing is checked, split, counted or logged."""

    def __init__(self, graph: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    async def ModelInfer(  # noqa: N802 (gRPC's name)
        self,
        request: pb.ModelInferRequest,
        context: grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse],
    ) -> pb.ModelInferResponse:
        del context
        users, items = (np.frombuffer(raw, "<i8") for raw in request.raw_input_contents)
        (scores,) = self._session.run(None, {"user_index": users, "item_index": items})
        return pb.ModelInferResponse(
            model_name=request.model_name,
            model_version="1",
            outputs=[{"name": "score", "datatype": "FP32", "shape": [len(users)]}],
            raw_output_contents=[scores.tobytes()],
        )


async def serve(graph: str, port: int) -> None:
    """Until it is ended."""
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(Servicer(graph), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Serve one graph on one port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph")
    parser.add_argument("port", type=int)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if options.uvloop:
        import uvloop

        uvloop.run(serve(options.graph, options.port))
    else:
        asyncio.run(serve(options.graph, options.port))


if __name__ == "__main__":
    main()
