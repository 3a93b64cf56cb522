import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from driftwheel.errors import DataError
from monitoring.ledger import SCHEMA_VERSION, Entry, Ledger

WRITER = """
import sys
from pathlib import Path
from monitoring.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    print(ledger.append("gate", sys.argv[2], at=f"t{number}", summary="s", payload={"number": number}), flush=True)
"""


def writer(path, model, count):
    command = [sys.executable, "-c", WRITER, str(path), model, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_goes_in_comes_out(tmp_path):
    ledger = Ledger(tmp_path / "home" / "ledger.sqlite")
    first = ledger.append("verdict", "movies", at="2026-01-01T00:00:00Z", summary="HOLD", payload={"a": [1, 2.5, None]})
    second = ledger.append("drift", "churn", at="2026-01-02T00:00:00Z", summary="stable", payload={})
    assert second > first
    assert ledger.entries() == [
        Entry(
            id=first,
            at="2026-01-01T00:00:00Z",
            kind="verdict",
            model="movies",
            summary="HOLD",
            payload={"a": [1, 2.5, None]},
        ),
        Entry(id=second, at="2026-01-02T00:00:00Z", kind="drift", model="churn", summary="stable", payload={}),
    ]


def test_entries_are_chosen_by_model_kind_id_and_number(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ids = [
        ledger.append(kind, model, at="t", summary="s")
        for model in ("a", "b")
        for kind in ("gate", "verdict", "verdict")
    ]
    assert [e.id for e in ledger.entries("a")] == ids[:3]
    assert [e.id for e in ledger.entries(kind="verdict")] == [ids[1], ids[2], ids[4], ids[5]]
    assert [e.id for e in ledger.entries("b", "verdict", limit=1)] == [ids[4]]
    assert [e.id for e in ledger.entries(after=ids[3])] == ids[4:]
    assert [e.id for e in ledger.latest("b")] == [ids[5]]
    assert [e.id for e in ledger.latest(kind="verdict", limit=3)] == [ids[5], ids[4], ids[2]]
    assert ledger.latest("c") == []


def test_numpy_goes_in_as_plain_numbers(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append("gate", "m", at="t", summary="s", payload={"x": np.float64(1.5), "y": np.arange(3), "z": tmp_path})
    assert ledger.latest()[0].payload == {"x": 1.5, "y": [0, 1, 2], "z": str(tmp_path)}


def test_entries_cannot_be_changed_or_deleted(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append("gate", "m", at="t", summary="s")
    connection = sqlite3.connect(ledger.path)
    for statement in ("UPDATE entries SET summary = 'x'", "DELETE FROM entries"):
        with pytest.raises(sqlite3.DatabaseError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_synchronous_full_and_a_write_ahead_log(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with ledger._connect() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_newer_ledger_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(DataError, match="schema version 2"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("this is no database, and long enough to be read as a header " * 20)
    with pytest.raises(DataError, match=r"ledger\.sqlite cannot be used"):
        Ledger(path)


def test_two_processes_make_one_ledger_and_write_at_once(tmp_path):
    path = tmp_path / "ledger.sqlite"
    processes = [writer(path, model, 60) for model in ("a", "b")]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    entries = Ledger(path).entries()
    assert sorted(int(line) for output in outputs for line in output) == [entry.id for entry in entries]
    for model in ("a", "b"):
        assert [e.payload["number"] for e in entries if e.model == model] == list(range(60))


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "ledger.sqlite"
    process = writer(path, "m", 100_000)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(20)]
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.stdout.close()
    process.wait()
    ids = [int(line) for line in [*acknowledged, *rest[:-1]]]
    kept = [entry.id for entry in Ledger(path).entries()]
    assert set(ids) <= set(kept)
    assert len(kept) - len(ids) <= 1
    # And it goes on.
    assert Ledger(path).append("gate", "m", at="t", summary="s") == kept[-1] + 1


def test_importing_it_needs_neither_pandas_nor_evidently():
    code = "import sys, monitoring.ledger, monitoring.canary.judge; print([m in sys.modules for m in %r])"
    heavy = ["pandas", "evidently", "scipy"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.lower()) == [False, False, False]
