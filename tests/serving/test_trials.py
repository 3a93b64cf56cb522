"""Trials of several versions behind two real workers: every change of the split is seen whole, and fails no call."""

import itertools
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import grpc
import pytest

from driftwheel.rollout import Rollout, abort, advance, start_candidate
from driftwheel.settings import Settings
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.split import Split
from tests.bundles import make_rating_bundle
from tests.serving.conftest import BY, prepared_home, rating_request
from tests.serving.test_workers import Server, wait_for

pytestmark = pytest.mark.system

Answer = tuple[int, int, str]
"""The user, the version that answered, and the worker."""


class Callers:
    """Threads that ask for one user after the other, over connections of their own."""

    def __init__(self, target: str) -> None:
        self.answers: list[Answer] = []
        self.failed: list[object] = []
        self._target = target
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(first,)) for first in range(0, 400, 100)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, first: int) -> None:
        users = itertools.cycle(range(first, first + 100))
        while not self._stop.is_set():
            # A new connection now and then may reach the other worker.
            with grpc.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = GRPCInferenceServiceStub(channel)
                for user in itertools.islice(users, 20):
                    try:
                        answer = stub.ModelInfer(rating_request([user], [10]), timeout=60)
                    except grpc.RpcError as error:
                        self.failed.append(error)
                        return
                    token = answer.parameters["prediction_id"].string_param.split(".")[2]
                    self.answers.append((user, int(answer.model_version), token[:12]))


def placed(rollout: Rollout) -> Callable[[Answer], bool]:
    """Whether an answer is what the split says."""
    split = Split(rollout)
    return lambda answer: split.place(str(answer[0]).encode())[1] == answer[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    home = tmp_path_factory.mktemp("home")
    settings = prepared_home(home, serving={"port": 0})
    make_rating_bundle(settings.models, 3)
    server = Server(settings, home / "server.log", "--workers", "2")
    yield server
    server.stop()


def changes(settings: Settings) -> list[Callable[[], Rollout]]:
    """A trial of two versions, from its start to its end."""
    folder: Path = settings.rollouts
    return [
        lambda: start_candidate(folder, "mf", 2, rivals=(3,), steps=(0.1, 0.3, 0.6, 1.0), **BY),
        lambda: advance(folder, "mf", **BY),
        lambda: abort(folder, "mf", versions=[2], **BY),
        lambda: advance(folder, "mf", **BY),
        lambda: abort(folder, "mf", **BY),
    ]


def test_each_change_is_seen_whole_by_both_workers_and_fails_no_call(server: Server) -> None:
    before, seen = Rollout(model="mf", stable=1), set[int]()
    with Callers(server.address.target) as callers:

        def follows(rollout: Rollout) -> bool:
            """Whether the next answers, of both workers, are all as a rollout says."""
            mark = len(callers.answers)
            wait_for(lambda: len(callers.answers) >= mark + 300 or callers.failed, "300 more answers")
            now = callers.answers[mark:]
            return all(map(placed(rollout), now)) and len({worker for _, _, worker in now}) == 2

        wait_for(lambda: follows(before), "both workers answer")
        for change in changes(server.settings):
            settled = len(callers.answers)
            rollout = change()
            wait_for(lambda after=rollout: follows(after), f"both workers follow revision {rollout.revision}")
            old, new = placed(before), placed(rollout)
            assert all(old(answer) or new(answer) for answer in callers.answers[settled:])
            seen |= {version for _, version, _ in callers.answers[settled:]}
            before = rollout
    assert (callers.failed, seen) == ([], {1, 2, 3})
