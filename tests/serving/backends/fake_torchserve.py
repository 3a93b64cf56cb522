"""TorchServe's inference API over gRPC as it looks from outside, in this process: it dies, hangs, moves and refuses on demand."""

import contextlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import numpy as np

from serving._proto import torchserve_inference_pb2 as pb
from serving._proto.torchserve_inference_pb2_grpc import (
    InferenceAPIsServiceServicer,
    add_InferenceAPIsServiceServicer_to_server,
)
from serving.backends.torchserve import TorchServeBackend
from serving.backends.torchserve_link import Place
from tests.bundles import rating_tables
from tests.serving.torchserve.running import free_ports

FEED = {"user_index": np.array([1, 2]), "item_index": np.array([1, 2])}
ANSWERS = [3.1, 3.7]

SOON_S = 30.0
"""Before a call's own time is up: what takes a moment, on machines that have other things to do."""

CALL_S = 60.0
"""How long a call may take."""

NOBODY = "org.pytorch.serve.archive.model.ModelVersionNotFoundException"


@dataclass
class Refusal(Exception):  # noqa: N818 (it is what TorchServe says, not what went wrong here)
    """What a call fails with."""

    code: grpc.StatusCode
    details: str


def scored(request: pb.PredictionsRequest) -> bytes:
    """What version 1 of ``tests.bundles.make_rating_bundle`` answers."""
    users, items = rating_tables(0.0)
    user, item = (np.frombuffer(request.input[name], "<i8") for name in ("user_index", "item_index"))
    return np.clip(users[user] + items[item], 0.5, 5.0).astype("<f4").tobytes()


class FakeTorchServe(InferenceAPIsServiceServicer):
    """Answers Ping and Predictions while it is up.

    ``answer`` makes the predictions; it may raise ``Refusal``.
    """

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.token: str | None = "first"
        self.answer: Callable[[pb.PredictionsRequest], bytes] = scored
        self.asked: list[pb.PredictionsRequest] = []
        self.moving = threading.Event()
        """Cleared, it hangs: every call waits."""
        self.moving.set()
        self._server: grpc.Server | None = None

    @property
    def place(self) -> Place:
        return Place(f"127.0.0.1:{self.port}", self.token)

    def locate(self) -> Place | None:
        """For ``TorchServeLink``."""
        return self.place

    def start(self) -> "FakeTorchServe":
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_InferenceAPIsServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self._server.start()
        return self

    def stop(self) -> None:
        """It dies, and its connections with it."""
        if self._server is not None:
            server, self._server = self._server, None
            server.stop(0).wait(10)

    @contextlib.contextmanager
    def hanging(self) -> Generator[None]:
        self.moving.clear()
        try:
            yield
        finally:
            self.moving.set()

    def Ping(self, request: object, context: grpc.ServicerContext) -> pb.TorchServeHealthResponse:  # noqa: N802
        self._let_in(context)
        return pb.TorchServeHealthResponse(health='{"status": "Healthy"}')

    def Predictions(self, request: pb.PredictionsRequest, context: grpc.ServicerContext) -> pb.PredictionResponse:  # noqa: N802
        self.asked.append(request)
        self._let_in(context)
        try:
            return pb.PredictionResponse(prediction=self.answer(request))
        except Refusal as refusal:
            context.abort(refusal.code, refusal.details)
            raise AssertionError from None

    def _let_in(self, context: grpc.ServicerContext) -> None:
        self.moving.wait(2 * CALL_S)
        token = dict(context.invocation_metadata()).get("authorization")
        if self.token is not None and token != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "Token Authorization failed")


def scores(backend: TorchServeBackend) -> list[float]:
    """A run of ``FEED``."""
    return backend.run(FEED)["score"].tolist()


def proved(backend: TorchServeBackend) -> TorchServeBackend:
    """As the server loads it."""
    backend.remember(FEED, backend.run(FEED))
    return backend
