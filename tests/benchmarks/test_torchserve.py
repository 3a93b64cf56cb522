"""What the comparison with TorchServe demands of its numbers, and that its contestants answer right."""

import importlib.util
import math
import os
import shutil
import signal
from pathlib import Path

import pytest

from benchmarks.load import CASES, Taken
from benchmarks.rivals.base import Rival, Workplace
from benchmarks.rivals.entrants import check_scores, prepare
from benchmarks.rivals.python_servers import PythonServer
from benchmarks.rivals.torchserve import TorchServe
from benchmarks.rivals.torchserve_ours import BehindTheDoor
from benchmarks.rivals.torchserve_plain import PlainOverGrpc, PlainTorchServe
from benchmarks.tools.probing import probe
from benchmarks.torchserve import BY_HAND, DEFAULTS, DOOR, IN_PROCESS, OURS, OURS_JSON, Duel, targets_of
from benchmarks.torchserve_runs import Runs


def _targets(
    ours: float, *, by_hand: float = 800, best: str = "another", shares: tuple[float, ...] = ()
) -> list[tuple[float, bool]]:
    rates = {DEFAULTS: 100.0, BY_HAND: by_hand, OURS: ours, OURS_JSON: 200.0, DOOR: 5000.0, IN_PROCESS: 9000.0}
    taken = [Taken(server, case, rate, 1, 1, 1, 1, 1, 1) for server, rate in rates.items() for case in CASES]
    duels = [Duel(case, best, shares) for case in CASES]
    return [(round(one.value, 3), one.met) for one in targets_of(taken, duels)]


def test_ours_is_held_against_the_defaults_and_what_is_tuned_by_hand():
    assert _targets(850, shares=(0.95, 0.8, 0.94)) == [(8.5, True), (1.062, True), (0.94, True)] * len(CASES)


def test_what_is_missed_is_seen():
    assert _targets(700, by_hand=1000, shares=(0.85, 0.89)) == [(7.0, False), (0.7, False), (0.87, False)] * len(CASES)


def test_where_ours_is_the_best_of_the_sweep_it_has_nobody_to_duel_with():
    assert _targets(850, best=OURS)[2] == (1.0, True)


def test_what_was_not_measured_meets_no_target():
    without = [Taken(OURS, "1 pair", 850, 1, 1, 1, 1, 1, 1)]
    targets = list(targets_of(without, [Duel("1 pair", "another", ())]))
    assert len(targets) == 2 * len(CASES) + 1
    assert all(math.isnan(one.value) and not one.met for one in targets)


class DiesOnce(PythonServer):
    """A server that does not outlive its first start for long."""

    starts = 0

    def start(self, workplace: Workplace) -> None:
        super().start(workplace)
        self.starts += 1
        if self.starts == 1:
            os.kill(self.pids()[0], signal.SIGKILL)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="needs Debian's nghttp2-client")
def test_a_server_that_stops_answering_is_started_again_for_the_next_case(place: Workplace, tmp_path: Path):
    runs = Runs(seconds=0.3, in_flight=4)
    rival = DiesOnce("dies once", "grpc_aio_server", needs="grpc")
    taken = list(runs.of(rival, Workplace(tmp_path, place.models, place.bundle), 0.1))
    assert [(one.server, one.case) for one in runs.missed] == [("dies once", "1 pair")]
    assert "UNAVAILABLE" in runs.missed[0].reason
    assert [(one.server, one.case) for one in taken] == [("dies once", "1000 pairs")]
    assert (rival.starts, taken[0].requests_per_s > 0) == (2, True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return prepare(tmp_path_factory.mktemp("b"))


@pytest.mark.system
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java (Debian: openjdk-17-jre-headless)")
@pytest.mark.skipif(importlib.util.find_spec("ts") is None, reason="needs torchserve")
@pytest.mark.parametrize(
    "rival",
    [PlainTorchServe("plain"), PlainOverGrpc("over gRPC"), TorchServe(), BehindTheDoor("door")],
    ids=lambda one: one.name,
)
def test_each_contestant_answers_what_the_graph_says(rival: Rival, place: Workplace, tmp_path: Path):
    try:
        rival.start(Workplace(tmp_path, place.models, place.bundle))
        for rows in CASES.values():
            check_scores(rival, probe(rival.target, rival.call(rows)), rows, place)
        assert len(rival.pids()) >= 2
    finally:
        rival.stop()
