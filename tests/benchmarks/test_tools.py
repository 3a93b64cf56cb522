"""The benchmarks' own tools: what they measure with must itself be right."""

import itertools
import os
import shutil
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.fuzz import BytesRandom
from benchmarks.models import ITEM_COUNT, USERS
from benchmarks.rivals.base import Rival, Workplace
from benchmarks.rivals.entrants import check_scores, chosen, prepare
from benchmarks.soak.watch import Sample, growth
from benchmarks.tools.arrivals import open_loop
from benchmarks.tools.h2load import ClosedLoop, closed_loop
from benchmarks.tools.messages import Call, infer_call, pairs, rest_call
from benchmarks.tools.probing import ProbeError, probe
from benchmarks.tools.processes import cpu_seconds, identity, memory, open_files, threads, tree
from driftwheel.settings import load_settings
from serving.engine import load_version

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs Debian's nghttp2-client")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return prepare(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module", params=["echo", "grpc-aio"])
def rival(request: pytest.FixtureRequest, place: Workplace) -> Generator[Rival]:
    (server,) = chosen(request.param)
    folder = place.folder / request.param
    folder.mkdir()
    try:
        server.start(Workplace(folder, place.models, place.bundle))
        yield server
    finally:
        server.stop()


def test_the_model_is_one_that_the_server_takes(place: Workplace):
    with ThreadPoolExecutor(1) as executor:
        settings = load_settings(home=place.folder)
        loaded = load_version(place.bundle, settings.serving, executor, on_run=lambda rows, seconds: None)
    assert loaded.recommender is not None


def test_pairs_are_known_ids_and_the_same_each_time():
    users, items = pairs(1000)
    assert users.min() >= 1
    assert users.max() <= USERS
    assert items.max() <= ITEM_COUNT
    assert (pairs(1000)[0] == users).all()


def test_a_rival_answers_what_the_graph_says(rival: Rival, place: Workplace):
    for rows in (1, 1000):
        check_scores(rival, probe(rival.target, rival.call(rows)), rows, place)


def test_other_scores_are_noticed(place: Workplace):
    liar = SimpleNamespace(name="liar", scores=lambda answer: np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="liar answered 3 pairs"):
        check_scores(liar, b"", 3, place)


@pytest.mark.parametrize("rows", [1, 1000])
def test_an_open_loop_makes_the_calls_that_are_due(rival: Rival, rows: int):
    result = open_loop(
        rival.target, rival.call(rows), per_s=100, seconds=1, cpu_seconds=lambda: cpu_seconds(rival.pids())
    )
    assert (result.due, result.failed) == (100, 0)
    assert 0 < result.p50_ms <= result.p99_ms <= result.p999_ms


@pytest.mark.parametrize("rival", ["grpc-aio"], indirect=True)
def test_an_open_loop_counts_refused_calls_as_never_answered(rival: Rival):
    wrong = Call(infer_call(1).path.replace("ModelInfer", "NoSuchMethod"), b"")
    result = open_loop(rival.target, wrong, per_s=50, seconds=1, cpu_seconds=lambda: 0.0)
    assert result.failed == 50
    assert result.p50_ms == float("inf")


@needs_h2load
def test_a_closed_loop_counts_answers_and_the_servers_processor_time(rival: Rival, tmp_path: Path):
    result = closed_loop(
        rival.target,
        rival.call(1),
        seconds=0.5,
        in_flight=8,
        folder=tmp_path,
        cpu_seconds=lambda: cpu_seconds(rival.pids()),
    )
    assert result.requests > 50
    assert result.server_cpu_us > 0
    assert 0 < result.p50_ms <= result.p99_ms


@needs_h2load
@pytest.mark.parametrize("rival", ["grpc-aio"], indirect=True)
def test_a_closed_loop_does_not_take_errors_for_answers(rival: Rival, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.tools.h2load.probe", lambda target, call, timeout_s: bytes(30))
    wrong = Call(
        infer_call(1).path, infer_call(1).message[:-3]
    )  # each call is refused, with HTTP 200 and nothing in it
    with pytest.raises(RuntimeError, match="some of the answers were errors"):
        closed_loop(rival.target, wrong, seconds=0.3, in_flight=4, folder=tmp_path, cpu_seconds=lambda: 0.0)


class Answers(BaseHTTPRequestHandler):
    """A JSON body over HTTP/1.1, with TorchServe's status line, which has no words; every fifth answer is an error where
    ``faulty``.
    """

    protocol_version = "HTTP/1.1"
    faulty = False
    answered = itertools.count(1)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        wrong = self.faulty and next(self.answered) % 5 == 0
        body = b'{"code": 503, "message": "no worker"}' if wrong else b"[3.25]"
        self.send_response(200, "")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


@pytest.fixture
def rest_target(request: pytest.FixtureRequest) -> Generator[str]:
    handler = type("Asked", (Answers,), {"faulty": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, ThreadPoolExecutor(1) as executor:
        executor.submit(server.serve_forever, 0.01)
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def _rest_loop(target: str, folder: Path) -> ClosedLoop:
    return closed_loop(target, rest_call(1), seconds=0.3, in_flight=4, folder=folder, cpu_seconds=lambda: 0.0)


@needs_h2load
@pytest.mark.parametrize("rest_target", [False], indirect=True)
def test_a_closed_loop_over_rest_counts_answers(rest_target: str, tmp_path: Path):
    assert probe(rest_target, rest_call(1)) == b"[3.25]"
    assert _rest_loop(rest_target, tmp_path).requests > 4


@needs_h2load
@pytest.mark.parametrize("rest_target", [True], indirect=True)
def test_a_closed_loop_over_rest_does_not_take_errors_for_answers(
    rest_target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("benchmarks.tools.h2load.probe", lambda target, call, timeout_s: b"[3.25]")
    with pytest.raises(RuntimeError, match="some of the answers were errors"):
        _rest_loop(rest_target, tmp_path)


def test_a_call_that_is_refused_says_by_whom():
    with pytest.raises(ProbeError, match="127.0.0.1:1 does not answer"):
        probe("127.0.0.1:1", rest_call(1))


def test_a_process_costs_what_it_used():
    own = os.getpid()
    before = cpu_seconds([own])
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
    assert cpu_seconds([own]) - before >= 0.05
    assert own in tree(os.getppid())
    held = memory([own])
    assert 0 < held.pss <= held.rss
    assert threads([own]) >= 1
    assert open_files([own]) >= 3
    assert identity(own) == identity(own)
    assert identity(2**22 + 1)[1] == ""


def _samples(values: list[float]) -> list[Sample]:
    return [Sample(float(at), value, value, 1, 1, 1, 0, 0) for at, value in enumerate(values)]


def test_growth_is_seen_in_medians_of_quarters():
    steady = [100.0 + (at % 4 == 0) * 30 for at in range(80)]  # a version that is loaded for a moment is no growth
    assert growth(_samples(steady), "rss_mib", share=0.05, slack=0).passed
    leaking = [100.0 + at * 0.2 for at in range(80)]
    assert not growth(_samples(leaking), "rss_mib", share=0.05, slack=0).passed


def test_choices_follow_from_bytes():
    data = bytes(range(1, 40))
    first, again = BytesRandom(data), BytesRandom(data)
    assert [first.randrange(100) for _ in range(10)] == [again.randrange(100) for _ in range(10)]
    assert first.randbytes(4) == again.randbytes(4)
    assert BytesRandom(b"").choice("abc") == "a"
