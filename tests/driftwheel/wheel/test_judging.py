"""What the judge hears besides the log: candidates that a real worker refused, and ids that a version does not know."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from driftwheel.bundle import GOLDEN, MANIFEST, ONNX_GRAPH, bundle_folder, read_manifest, seal
from driftwheel.errors import DataError
from driftwheel.refusals import read_refusal, write_refusal
from driftwheel.rollout import Rollout, start_candidate
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.explaining import explain
from driftwheel.wheel.judging import look
from monitoring.canary.check import named
from monitoring.canary.judge import Verdict, replay
from monitoring.ledger import Ledger
from monitoring.segments import moment
from serving.refusing import is_its_own
from tests.bundles import RATING_SIGNATURE, make_rating_bundle
from tests.monitoring.worlds import log_rows, write_sealed
from tests.serving.conftest import prepared_home
from tests.serving.repository_worker import worker


def put_on_trial(settings: Settings) -> Rollout:
    return start_candidate(settings.rollouts, "mf", 2, by="test", now=now())


def serve(settings: Settings, *, after: Callable[[], object] = lambda: None) -> None:
    """A worker brings itself to what the rollout says; and once more after ``after``, if that has left anything to do."""

    async def work() -> None:
        async with worker(settings) as one:
            after()
            await one.repository.load("mf", None)

    asyncio.run(work())


def reseal(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / MANIFEST).unlink()
    seal(folder, manifest)


def spoil_golden(settings: Settings) -> None:
    """Record golden answers that the graph does not give; all sums are right."""
    folder = bundle_folder(settings.models, "mf", 2)
    with np.load(folder / GOLDEN) as arrays:
        recorded = {key: arrays[key] for key in arrays.files}
    np.savez(folder / GOLDEN, **{**recorded, "output:score": recorded["output:score"] + 0.5})
    reseal(folder)


def break_graph(settings: Settings) -> None:
    """A graph that its runtime cannot load; all sums are right."""
    folder = bundle_folder(settings.models, "mf", 2)
    (folder / ONNX_GRAPH).write_bytes(b"no graph at all")
    reseal(folder)


@pytest.mark.parametrize(
    ("spoil", "reason"), [(spoil_golden, "output 'score' differs from its golden answers"), (break_graph, "")]
)
def test_a_candidate_that_no_worker_can_load_is_aborted(
    tmp_path: Path, spoil: Callable[[Settings], None], reason: str
) -> None:
    settings = prepared_home(tmp_path)
    spoil(settings)
    put_on_trial(settings)
    assert look(settings, "mf", act=False)[0].decision == "HOLD"

    async def work() -> None:
        async with worker(settings) as one:
            assert one.repository.model("mf").candidate is None

    asyncio.run(work())
    verdict, after = look(settings, "mf")
    assert (verdict.decision, after.candidate, after.stable) == ("ABORT", None, 1)
    assert verdict.reasons[0].startswith("refused at load: ")
    assert reason in verdict.reasons[0]
    written = Ledger(settings.ledger).entries("mf", "verdict")[-1]
    assert written.payload["evidence"]["refused"] in verdict.reasons[0]
    # The next trial begins with a clean sheet.
    assert read_refusal(settings.refusals, put_on_trial(settings)) is None


def test_a_candidate_that_loads_after_all_is_not_aborted(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    graph = bundle_folder(settings.models, "mf", 2) / ONNX_GRAPH
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    rollout = put_on_trial(settings)
    told: list[str | None] = []

    def repair() -> None:
        told.append(read_refusal(settings.refusals, rollout))
        graph.write_bytes(whole)

    serve(settings, after=repair)
    assert "model.onnx is damaged" in str(told[0])
    assert look(settings, "mf")[0].decision == "HOLD"


def test_what_the_machine_lacks_is_not_held_against_a_version() -> None:
    from driftwheel.errors import BundleError, NotFiniteError, NotFoundError, UnavailableError

    own = [BundleError("golden"), NotFiniteError("nan"), RuntimeError("bad node"), ValueError("shape")]
    others = [
        UnavailableError("down"),
        NotFoundError("not copied yet"),
        OSError("disk"),
        MemoryError(),
        ImportError("trt"),
    ]
    assert [is_its_own(error) for error in (*own, *others)] == [True] * len(own) + [False] * len(others)


def test_a_refusal_is_about_one_version_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    rollout = Rollout(model="mf", stable=1, candidate=2, state="running")
    write_refusal(tmp_path, rollout, "broken")
    assert read_refusal(tmp_path, rollout) == "broken"
    assert read_refusal(tmp_path, replace(rollout, candidate=3)) is None
    (tmp_path / "mf" / "2.json").write_text("{")
    with pytest.raises(DataError, match="2.json is damaged"):
        read_refusal(tmp_path, rollout)


def test_ids_are_looked_up_in_the_bundles_of_both_versions(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    rollout = put_on_trial(settings)
    for version, arm, users in ((1, "control", [7] * 5 + [999] * 5), (2, "candidate", [15] * 20)):
        frame = pd.DataFrame({"in_user_id": users, "in_item_id": 10, "out_score": np.float32(3)})
        common = {"arm": [arm] * len(users), "at": [moment(rollout.started_at)] * len(users)}
        rows = log_rows(frame, RATING_SIGNATURE, prediction_id=[f"{arm}{i}" for i in range(len(users))], **common)
        write_sealed(settings.prediction_log, "mf", version, rows)
    check = named(look(settings, "mf", act=False)[0].checks, "unknown ids")
    # Five of the thirty requests, whoever answered them.
    assert (check.outcome, check.control, check.candidate) == ("fine", 5 / 30, 5 / 30)


def test_of_several_the_one_that_fails_is_dropped_and_the_other_is_promoted(tmp_path: Path) -> None:
    """Answers as servers log them, over a whole trial; version 3 fails for a tenth of its users."""
    settings = prepared_home(tmp_path)
    make_rating_bundle(settings.models, 3)
    steps, users, began = (0.3, 1.0), np.arange(3000), datetime.now(UTC) - timedelta(hours=1)
    rollout = start_candidate(settings.rollouts, "mf", 2, rivals=(3,), steps=steps, by="test", now=began.isoformat())

    def log(version: int, arm: str) -> None:
        frame = pd.DataFrame({"in_user_id": users, "in_item_id": 10, "out_score": np.float32(3)})
        codes = np.where((version == 3) & (users % 10 == 0), "INTERNAL", "OK").tolist()
        # Side by side, a hundred a second; the last ones once there is no control.
        times = [began + timedelta(milliseconds=10 * user) for user in users.tolist()]
        at = [datetime.now(UTC)] * len(users) if looks else times
        ids = [f"{arm}{version}-{user}" for user in users]
        rows = log_rows(frame, RATING_SIGNATURE, prediction_id=ids, arm=[arm] * len(users), code=codes, at=at)
        write_sealed(settings.prediction_log, "mf", version, rows, stem=f"20260101T000000-1-{len(looks)}")

    looks: list[Verdict] = []
    for version, arm in ((1, "control"), (2, "candidate"), (3, "candidate")):
        log(version, arm)
    verdict, rollout = look(settings, "mf")
    looks.append(verdict)
    assert (verdict.decision, rollout.on_trial, rollout.weight) == ("HOLD", (2,), 0.3)
    assert "version 3 is dropped: errors" in verdict.summary
    entries = Ledger(settings.ledger).entries("mf", "verdict")
    assert [entry.payload["verdict"]["decision"] for entry in entries] == ["ABORT", "STEP"]
    assert [entry.payload["rollout"]["candidate"] for entry in entries] == [3, 2]
    assert [looks_at[-1].verdict.decision for looks_at in explain(settings, "mf")] == ["STEP", "ABORT"]
    assert all(replayed[0] == replayed[1] for replayed in (replay(entry.payload) for entry in entries))
    verdict, rollout = look(settings, "mf")
    assert (verdict.decision, rollout.weight) == ("STEP", 1.0)
    assert [looks_at[-1].version for looks_at in explain(settings, "mf")] == [2, 3]
    looks.append(verdict)
    log(2, "candidate")
    verdict, rollout = look(settings, "mf")
    assert (verdict.decision, rollout.versions) == ("PROMOTE", (2,))


def test_looks_that_say_nothing_new_are_explained_all_the_same(tmp_path: Path) -> None:
    """A request more than twenty is no tenth more."""
    settings = prepared_home(tmp_path)
    rollout = put_on_trial(settings)

    def log(requests: int) -> None:
        for version, arm in ((1, "control"), (2, "candidate")):
            frame = pd.DataFrame({"in_user_id": 7, "in_item_id": 10, "out_score": np.float32(3)}, index=range(requests))
            common = {"arm": [arm] * requests, "at": [moment(rollout.started_at)] * requests}
            rows = log_rows(frame, RATING_SIGNATURE, prediction_id=[f"{arm}{n}" for n in range(requests)], **common)
            write_sealed(settings.prediction_log, "mf", version, rows)

    for requests, entries, number in ((20, 1, 1), (21, 1, None), (23, 2, 2)):
        log(requests)
        assert look(settings, "mf")[0].decision == "HOLD"
        assert len(Ledger(settings.ledger).entries("mf", "verdict")) == entries
        newest = explain(settings, "mf")[0][-1]
        assert (newest.number, newest.requests, newest.again) == (number, requests, newest.verdict)
    assert [one.number for one in explain(settings, "mf", 1)[0]] == [1]
