"""Callers of ``mf`` that never stop, and remember every answer: right, wrong or none."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.serving.conftest import rating_request, scores_of

PATIENCE_S = 60.0
SHIFT = {"1": 0.0, "2": 0.25}
"""How much higher a version scores."""


def expected(user: int, version: str) -> float:
    """The score of item 10, by the tables of ``tests.bundles``."""
    return 3.0 + {7: 0.1, 15: 0.2, 400: 0.3}.get(user, 0.0) + SHIFT[version]


def check(user: int, answer: pb.ModelInferResponse) -> None:
    """See that an answer is that of the version that it names."""
    assert abs(scores_of(answer)[0] - expected(user, answer.model_version)) < 1e-5, (user, answer)


@dataclass(frozen=True)
class Failure:
    """A call that was not answered."""

    at: float
    took_s: float
    version: str
    """That it was for; empty: the split's."""
    code: grpc.StatusCode
    details: str


class Traffic:
    """Some threads that call, each with its own channel, once for each version in turn."""

    def __init__(self, target: str, versions: Sequence[str] = ("",), *, threads: int = 4) -> None:
        self.wrong: list[object] = []
        self.failures: list[Failure] = []
        self.answered: Counter[str] = Counter()
        """By the version that answered."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(target, versions)) for _ in range(threads)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.wrong == []

    @property
    def calls(self) -> int:
        return self.answered.total() + len(self.failures)

    def codes(self) -> set[grpc.StatusCode]:
        return {one.code for one in self.failures}

    def wait_for(self, calls: int, count: Callable[[], int] | None = None) -> None:
        """Wait for so many more calls, or for so many more of what is counted."""
        counted = count or (lambda: self.calls)
        until = counted() + calls
        wait_until(lambda: counted() >= until, f"{calls} more calls")

    def _run(self, target: str, versions: Sequence[str]) -> None:
        with grpc.insecure_channel(target) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not self._stop.is_set():
                for user in (7, 15, 400, 1000):
                    for version in versions:
                        self._call(stub, user, version)

    def _call(self, stub: GRPCInferenceServiceStub, user: int, version: str) -> None:
        started = time.monotonic()
        try:
            answer = stub.ModelInfer(rating_request([user], [10], model_version=version), timeout=PATIENCE_S)
            check(user, answer)
        except grpc.RpcError as error:
            now = time.monotonic()
            self.failures.append(Failure(now, now - started, version, error.code(), error.details() or ""))
            time.sleep(0.005)  # refusals come faster than they are of use
        except AssertionError as error:
            self.wrong.append(error)
        else:
            self.answered[answer.model_version] += 1


def wait_until(condition: Callable[[], object], what: str) -> float:
    """Wait for something that happens elsewhere.

    Returns:
        How long it took, in seconds.
    """
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE_S, f"{what} did not happen"
        time.sleep(0.01)
    return time.monotonic() - started
