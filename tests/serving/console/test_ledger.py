"""The console's own reading of the ledger agrees with the ledger."""

import sqlite3
from pathlib import Path

import pytest

from driftwheel.errors import UnavailableError
from monitoring.canary.looks import Looks, keep_looks
from monitoring.ledger import SCHEMA_VERSION as WRITTEN
from monitoring.ledger import Ledger
from serving.console.history import MOST_VERDICTS, read_history, read_retrains
from serving.console.ledger import LARGEST_PAYLOAD, SCHEMA_VERSION, LedgerReader
from serving.console.looks import LARGEST_LOOK, read_look
from tests.serving.console.conftest import add_drift, add_retrain

AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "ledger?.sqlite"


def test_it_reads_what_the_ledger_wrote_newest_first(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(5):
        ledger.append("gate", "mf", at=AT, summary=f"gate {number}", payload={"number": number})
    ledger.append("gate", "churn", at=AT, summary="another model's")
    ledger.append("drift", "mf", at=AT, summary="another kind")
    reader = LedgerReader(path)
    assert SCHEMA_VERSION == WRITTEN
    assert reader.last_id() == ledger.latest()[0].id == 7
    entries = reader.newest("mf", "gate", limit=3)
    assert [entry.summary for entry in entries] == ["gate 4", "gate 3", "gate 2"]
    assert entries[0].payload == '{"number":4}'


def test_without_a_file_it_is_empty_and_makes_none(path: Path) -> None:
    reader = LedgerReader(path)
    assert (reader.last_id(), reader.newest("mf", "gate", limit=3)) == (0, [])
    assert not path.parent.exists()


def test_an_empty_ledger_has_no_newest_entry(path: Path) -> None:
    Ledger(path)
    assert LedgerReader(path).last_id() == 0


def test_a_ledger_of_the_future_is_refused(path: Path) -> None:
    Ledger(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(UnavailableError, match=f"schema version {SCHEMA_VERSION + 1}, this server knows"):
        LedgerReader(path).last_id()


def test_a_damaged_file_is_told(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(UnavailableError, match="the ledger cannot be read"):
        LedgerReader(path).newest("mf", "gate", limit=1)


def test_of_what_is_too_large_the_summary_is_left(path: Path) -> None:
    Ledger(path).append("drift", "mf", at=AT, summary="huge", payload={"x": "y" * LARGEST_PAYLOAD})
    (entry,) = LedgerReader(path).newest("mf", "drift", limit=1)
    assert (entry.summary, entry.payload) == ("huge", None)


def test_entries_in_an_unknown_form_are_shown_by_their_summary(path: Path, tmp_path: Path) -> None:
    ledger = Ledger(path)
    for kind in ("verdict", "drift", "retrain"):
        ledger.append(kind, "mf", at=AT, summary=f"an old {kind}", payload={"decision": 3, "event": 4})
    history = read_history(LedgerReader(path), tmp_path, tmp_path, "mf")
    lines = (*history.verdicts, *history.drifts, *history.retrains)
    assert [line.summary for line in lines] == ["an old verdict", "an old drift", "an old retrain"]


def test_a_retrain_is_its_start_and_its_end(path: Path) -> None:
    ledger = Ledger(path)
    for day, result in ((3, "refused"), (4, None), (5, "on trial"), (6, None)):
        add_retrain(ledger, day, result)
    retrains = read_retrains(LedgerReader(path), "mf", limit=30)
    assert [(one.started_at[8:10], one.finished_at[8:16], one.result, one.version) for one in retrains] == [
        ("06", "", "", None),
        ("05", "05T05:05", "on trial", 5),
        ("04", "", "", None),
        ("03", "03T05:03", "refused", 3),
    ]
    assert [one.started_at[8:10] for one in read_retrains(LedgerReader(path), "mf", limit=2)] == ["06", "05"]


def test_the_newest_window_tells_the_quality(path: Path, tmp_path: Path) -> None:
    add_drift(Ledger(path), 1, 0.25)
    (line,) = read_history(LedgerReader(path), tmp_path, tmp_path, "mf").drifts
    assert line.quality is not None
    assert (line.status, line.quality.window_mean, line.report) == ("drift", 1.25, None)
    assert [(one.group, one.drifted) for one in line.outcomes] == [("input", True), ("prediction", False)]


@pytest.mark.parametrize("recorded", [True, False])
def test_the_newest_verdict_on_each_of_several_however_old(path: Path, tmp_path: Path, *, recorded: bool) -> None:
    ledger, trial = Ledger(path), {"stable": 1, "weight": 0.2, "began": [2, 3, 4], "started_at": AT}

    def add(version: int, decision: str, **other: object) -> None:
        payload = {"verdict": {"decision": decision}, "rollout": {**trial, "candidate": version, **other}}
        ledger.append("verdict", "mf", at=AT, summary=f"{decision} {version}", payload=payload)

    add(4, "HOLD", started_at="2026-01-01")  # in a trial of before
    add(3, "HOLD")
    add(3, "ABORT")
    if recorded:
        for candidate, rivals in ((2, [4]), (2, [])):
            changed = {**trial, "candidate": candidate, "rivals": rivals}
            ledger.append("rollout", "mf", at=AT, summary="dropped", payload=changed)
    for decision in ("HOLD",) * MOST_VERDICTS + ("STEP",):
        add(2, decision)
    history = read_history(LedgerReader(path), tmp_path, tmp_path, "mf")
    assert {line.candidate for line in history.verdicts} == {2}
    assert [(line.candidate, line.decision) for line in history.arms] == [(2, "STEP"), (3, "ABORT")]
    add(5, "HOLD", started_at="2026-01-02", began=[])
    history = read_history(LedgerReader(path), tmp_path, tmp_path, "mf")
    assert [(line.candidate, line.decision) for line in history.arms] == [(5, "HOLD")]


def test_the_newest_look_goes_before_an_older_verdict_of_its_trial(path: Path, tmp_path: Path) -> None:
    ledger, later = Ledger(path), "2026-01-09T00:00:00+00:00"

    def payload(version: int, summary: str, **other: object) -> dict[str, object]:
        trial = {"stable": 1, "candidate": version, "weight": 0.2, "began": [2, 3], "started_at": AT, **other}
        return {"verdict": {"decision": "HOLD", "summary": summary}, "rollout": trial}

    for version in (2, 3):
        ledger.append("verdict", "mf", at=AT, summary="old", payload=payload(version, "old"))

    def told(at: str, **payloads: object) -> list[tuple[str, str]]:
        by_version = {name.removeprefix("v"): one for name, one in payloads.items()}
        keep_looks(tmp_path, "mf", Looks(started_at=AT, at=at, payloads=by_version))
        history = read_history(LedgerReader(path), tmp_path, tmp_path, "mf")
        assert [line.summary for line in history.verdicts] == ["old", "old"]
        assert [line.id for line in history.arms] == [1, 2]
        return [(line.at, line.summary) for line in history.arms]

    assert told(later, v2=payload(2, "new"), v3=payload(3, "newer")) == [(later, "new"), (later, "newer")]
    assert told(later, v3=payload(3, "new")) == [(AT, "old"), (later, "new")]
    assert told(AT, v2=payload(2, "as old")) == [(AT, "old")] * 2
    assert told(later, v2=payload(2, "of another trial", started_at=later), v3={}) == [(AT, "old")] * 2
    (tmp_path / "mf.json").write_text("{")
    assert [line.at for line in read_history(LedgerReader(path), tmp_path, tmp_path, "mf").arms] == [AT, AT]
    (tmp_path / "mf.json").write_bytes(b" " * (LARGEST_LOOK + 1))
    assert read_look(tmp_path, "mf").at == ""


def test_nothing_judged_has_no_arms(path: Path, tmp_path: Path) -> None:
    assert read_history(LedgerReader(path), tmp_path, tmp_path, "mf").arms == []
    assert LedgerReader(path).newest_verdict("mf", 2, started_at=AT) is None
