"""The command line as a person meets it: help, exit codes, and one clear message for bad input."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from driftwheel.client import ClientError
from driftwheel.errors import AddressInUseError, DataError
from driftwheel.exits import EXIT_CODES, error_exits, exit_code
from driftwheel.rollout import serve_stable
from monitoring.ledger import Ledger
from tests.bundles import make_churn_bundle, make_rating_bundle
from tests.command_lines import called

HEADER = "user_id,item_id,rating,timestamp\n"
ROWS = "".join(f"{u},{i},{1 + (u + i) % 5},{1_000_000 + 60 * u + i}\n" for u in range(20) for i in range(20))


def run(home: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "driftwheel", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_help_teaches(tmp_path: Path) -> None:
    for words in (["--help"], ["up", "--help"], ["canary", "--help"], ["drift", "run", "--help"]):
        done = run(tmp_path, *words)
        assert (done.returncode, "Usage: driftwheel" in done.stdout) == (0, True), done.stderr
    assert "every step is a command" in " ".join(run(tmp_path, "--help").stdout.replace("│", " ").split())


def test_a_full_disk_is_one_clear_message(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, error_exits(), Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"one row")
    assert ended.value.code == 2
    assert "error: No space left on device" in capfd.readouterr().err


def test_a_database_without_room_is_one_clear_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    database = sqlite3.connect(tmp_path / "small.db")
    database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(SystemExit) as ended, error_exits():
        try:
            database.execute("CREATE TABLE t (x)")
        except sqlite3.Error as error:
            raise ValueError("as libraries wrap it") from error
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert "error: database or disk is full" in said
    assert "--home" in said


def test_other_errors_of_a_database_keep_their_traceback() -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), error_exits():
        sqlite3.connect(":memory:").execute("SELECT * FROM t")


def test_ratings_are_prepared_from_a_table_with_other_names(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("uid,sku,stars,when\n" + ROWS)
    columns = ["--user-column", "uid", "--item-column", "sku", "--rating-column", "stars", "--time-column", "when"]
    done = called(tmp_path / "home", "data", "ratings", "--ratings", str(tmp_path / "mine.csv"), *columns, "--json")
    answer = json.loads(done.stdout)
    assert sum(answer["rows"].values()) == 400
    again = json.loads(
        called(tmp_path / "home", "data", "ratings", "--ratings", str(tmp_path / "mine.csv"), *columns, "--json").stdout
    )
    assert again["fingerprint"] == answer["fingerprint"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("user_id,rating,timestamp\n1,3,1\n", ["item_id", "--item-column", "user_id, rating, timestamp"]),
        (HEADER + "1,1,3,5\n1,2,good,6\n", ["rating", "good", "row 2"]),
        (HEADER, ["no", "row"]),
        (HEADER + "1,1,99,5\n", ["no", "valid"]),
        ("", ["mine.csv"]),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_message(tmp_path: Path, content: str, says: list[str]) -> None:
    (tmp_path / "mine.csv").write_text(content)
    done = called(tmp_path / "home", "data", "ratings", "--ratings", str(tmp_path / "mine.csv"))
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in says), done.stderr
    assert not (tmp_path / "home" / "data").exists()


def test_an_absent_table_is_one_clear_message(tmp_path: Path) -> None:
    done = called(tmp_path, "data", "customers", "--customers", str(tmp_path / "none.csv"))
    assert (done.returncode, "none.csv" in done.stderr, "Traceback" in done.stderr) == (3, True, False)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["canary", "status", "none"], 4, "model 'none' has no rollout"),
        (["canary", "start", "mf", "9"], 4, "no bundle at"),
        (["canary", "start", "mf", "1"], 6, "is the stable version already"),
        (["canary", "start", "mf", "2", "--steps", "0.5,x"], 6, "--steps must be shares"),
        (["canary", "judge", "mf"], 6, "has no candidate to judge"),
        (["canary", "abort", "mf"], 6, "has no candidate"),
        (["drift", "run", "none"], 4, "has no rollout"),
        (["replay", "mf"], 2, "no server serves"),
        (["train", "other"], 3, "no data is known for model 'other'"),
        (["train", "mf", "--register-only", "--enter"], 2, "--register-only and --enter exclude each other"),
        (["train", "mf", "--ranks", "999999"], 2, "training.ranks (--ranks): expected at most"),
        (["pipeline", "run", "--model", "other"], 3, "no data is known for model 'other'"),
        (["ledger", "--kind", "x"], 2, "--kind must be one of"),
        (["--config", "none.toml", "models", "list"], 2, "none.toml does not exist"),
    ],
)
def test_what_cannot_be_done_says_why(tmp_path: Path, words: list[str], code: int, says: str) -> None:
    make_rating_bundle(tmp_path / "models", 1)
    make_rating_bundle(tmp_path / "models", 2)
    serve_stable(tmp_path / "rollouts", "mf", 1, by="test", now="2026-01-01T00:00:00Z")
    done = called(tmp_path, *words)
    assert (done.returncode, says in done.stderr.replace("\n", " "), "Traceback" in done.stderr) == (
        code,
        True,
        False,
    ), done.stderr


def test_a_release_by_hand(tmp_path: Path) -> None:
    for version in (1, 2):
        make_rating_bundle(tmp_path / "models", version)
    assert called(tmp_path, "canary", "promote", "mf", "1").returncode == 0
    started = json.loads(called(tmp_path, "canary", "start", "mf", "2", "--steps", "0.1,1", "--json").stdout)
    assert (started["candidate"], started["weight"], started["state"]) == (2, 0.1, "running")
    judged = called(tmp_path, "canary", "judge", "mf", "--json")
    assert (judged.returncode, json.loads(judged.stdout)["verdict"]["decision"]) == (10, "HOLD")
    assert json.loads(called(tmp_path, "canary", "step", "mf", "--json").stdout)["weight"] == 1.0
    assert json.loads(called(tmp_path, "canary", "promote", "mf", "--json").stdout)["stable"] == 2
    kinds = [entry["kind"] for entry in json.loads(called(tmp_path, "ledger", "mf", "--json").stdout)]
    assert kinds == ["rollout", "rollout", "verdict", "rollout", "rollout"]
    listed = {row["version"]: row["state"] for row in json.loads(called(tmp_path, "models", "list", "--json").stdout)}
    assert listed == {1: "", 2: "in service"}


def test_a_candidate_that_cannot_answer_the_same_requests_is_refused(tmp_path: Path) -> None:
    make_rating_bundle(tmp_path / "models", 1, name="m")
    make_churn_bundle(tmp_path / "models", 2, name="m")
    assert called(tmp_path, "canary", "promote", "m", "1").returncode == 0
    done = called(tmp_path, "canary", "start", "m", "2")
    assert (done.returncode, "its inputs differ: contract (BYTES), item_id (INT64)" in done.stderr) == (6, True), (
        done.stderr
    )


def test_words_that_look_like_markup_are_printed_as_they_are(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").append(
        "retrain", "mf", at="2026-01-01T00:00:00Z", summary="because [/b] of [red]x"
    )
    done = called(tmp_path, "ledger")
    assert (done.returncode, "[/b] of [red]x" in done.stdout) == (0, True), done.stderr


def test_verify_names_a_damaged_file(tmp_path: Path) -> None:
    make_rating_bundle(tmp_path / "models", 1)
    assert called(tmp_path, "models", "verify").returncode == 0
    path = tmp_path / "models" / "mf" / "1" / "seen.npz"
    path.write_bytes(path.read_bytes()[:-1])
    done = called(tmp_path, "models", "verify", "--json")
    assert (done.returncode, "seen.npz is damaged" in json.loads(done.stdout)["damaged"][0]) == (4, True)


def test_every_error_has_an_exit_code() -> None:
    assert exit_code(DataError("x")) == EXIT_CODES[DataError] == 3
    assert exit_code(AddressInUseError("x")) == 2
    assert exit_code(ClientError("UNAVAILABLE", "x")) == 1
