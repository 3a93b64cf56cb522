"""``driftwheel log`` on the terminal and for scripts."""

import json
import subprocess
from pathlib import Path

import pytest

from driftwheel.log_layout import shadow_log
from tests.command_lines import called
from tests.monitoring.worlds import RATING, log_rows, movielens, write_feedback, write_open, write_sealed


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of real ratings: 300 sealed, 200 open, 100 in shadow."""
    home = tmp_path_factory.mktemp("home")
    table, _ = movielens("2005")
    log = home / "log"
    write_sealed(log, "mf", 1, log_rows(table.head(300), RATING))
    write_open(log, "mf", 2, log_rows(table.iloc[300:500], RATING, arm=["candidate"] * 200))
    write_sealed(shadow_log(log), "mf", 2, log_rows(table.head(100), RATING, arm=["shadow"] * 100))
    write_feedback(log, "mf", ["p0000000"], [4.0])
    return home


def query(home: Path, sql: str, *words: str) -> subprocess.CompletedProcess[str]:
    return called(home, "log", "query", sql, *words)


def test_a_table_for_people_and_json_for_scripts(home: Path) -> None:
    sql = "SELECT arm, count(*) AS rows FROM predictions GROUP BY arm ORDER BY arm"
    done = query(home, sql)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1::2] for line in done.stdout.splitlines()[3:5]] == [["candidate", "200"], ["stable", "300"]]
    answer = json.loads(query(home, sql, "--json").stdout)
    assert answer == {"columns": ["arm", "rows"], "rows": [["candidate", 200], ["stable", 300]], "more": False}


def test_what_has_no_json_of_its_own(home: Path) -> None:
    answer = json.loads(query(home, "SELECT min(predictions.at), 'nan'::FLOAT, NULL FROM predictions", "--json").stdout)
    assert answer["rows"] == [["2026-01-01T00:00:00+00:00", None, None]]


def test_more_rows_than_are_shown_are_said(home: Path) -> None:
    done = query(home, "FROM feedback UNION ALL FROM feedback", "--limit", "1")
    assert "There are more rows than 1" in done.stderr


def test_a_wrong_query_is_one_clear_message(home: Path) -> None:
    done = query(home, "DROP VIEW predictions")
    assert (done.returncode, done.stderr) == (2, "error: a query is one SELECT, got DROP\n")
    done = query(home, "SELECT arm FROM predictions", "--model", "films")
    assert (done.returncode, "it has those of mf" in done.stderr) == (4, True), done.stderr


def test_what_the_log_holds(home: Path) -> None:
    facts = {one["what"]: one for one in json.loads(called(home, "log", "status", "--json").stdout)}
    assert {what: (one["sealed"], one["not_sealed"]) for what, one in facts.items()} == {
        "feedback": (1, 0),
        "mf 1": (1, 0),
        "mf 2": (0, 1),
        "mf 2 in shadow": (1, 0),
    }
    (sealed,) = (home / "log/predictions/mf/1").iterdir()
    assert facts["mf 1"]["bytes"] == sealed.stat().st_size
    assert facts["mf 1"]["from"] == "2026-01-01T00:00:00+00:00"
    table = called(home, "log", "status").stdout
    assert all(what in table for what in facts)
    assert "2026-01-01" in table
