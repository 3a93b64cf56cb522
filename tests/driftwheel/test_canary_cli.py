"""Releases on the command line: plans, several versions at once, and why a trial went as it did."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from driftwheel.cli import app
from driftwheel.errors import ConfigurationError, DriftwheelError, NotFoundError, RolloutError
from driftwheel.rollout import read_rollout, serve_stable
from tests.bundles import make_rating_bundle


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        make_rating_bundle(tmp_path / "models", version)
    serve_stable(tmp_path / "rollouts", "mf", 1, by="test", now="2026-01-01T00:00:00Z")
    return tmp_path


def run(home: Path, *words: str, code: int = 0) -> str:
    """What a command prints, in one line. Errors of ours are raised."""
    done = CliRunner().invoke(app, ["--home", str(home), *words])
    if isinstance(done.exception, DriftwheelError):
        raise done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.stdout.split())


def answer(home: Path, *words: str, code: int = 0) -> Any:
    return json.loads(run(home, *words, "--json", code=code))


def test_a_plan_is_followed_and_options_go_before_it(home: Path) -> None:
    plan = home / "plan.toml"
    plan.write_text("steps = [0, 0.1, 1]\nshadow = 0.2\n")
    started = answer(home, "canary", "start", "mf", "2", "--plan", str(plan))
    assert (started["steps"], started["shadow"], started["weight"]) == ([0.0, 0.1, 1.0], 0.2, 0.0)
    assert "version 2 running at 0 %, in shadow of 20.00% (step 1 of 3)" in run(home, "canary", "status", "mf")
    run(home, "canary", "abort", "mf")
    assert answer(home, "canary", "start", "mf", "2", "--plan", str(plan), "--shadow", "0.3")["shadow"] == 0.3


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("stepz = [0, 1]", ConfigurationError, "unknown field `stepz`"),
        ("shadow = 'all'", ConfigurationError, "`\\$.shadow`"),
        ("steps = [0.5, 0.1]", RolloutError, "steps must rise"),
    ],
)
def test_a_plan_that_cannot_be_used_is_one_clear_message(
    home: Path, text: str, kind: type[Exception], says: str
) -> None:
    (home / "plan.toml").write_text(text)
    with pytest.raises(kind, match=says):
        run(home, "canary", "start", "mf", "2", "--plan", str(home / "plan.toml"))
    assert read_rollout(home / "rollouts", "mf").candidate is None


def test_several_are_tried_dropped_and_told_of(home: Path) -> None:
    told = run(home, "canary", "start", "mf", "2", "3", "--steps", "0.1,0.3,1")
    assert "version 2 and 3 running at 10.00% each (step 1 of 3)" in told
    listed = {row["version"]: row["state"] for row in answer(home, "models", "list")}
    assert listed[2] == listed[3] != ""
    shown = run(home, "canary", "judge", "mf", "--no-act", code=10)
    for row in ("check ┃ version 2 ┃ version 3", "verdict │ HOLD │ HOLD", "│ many errors │ fine"):
        assert row in shown
    judged = answer(home, "canary", "judge", "mf", code=10)["verdict"]
    assert (judged["decision"], [one["version"] for one in judged["arms"]]) == ("HOLD", [2, 3])
    with pytest.raises(RolloutError, match="versions 2, 3 of 'mf' are on trial; say which"):
        run(home, "canary", "promote", "mf")
    explained = answer(home, "canary", "explain", "mf", "--png", str(home / "trial.png"))
    assert [(look["version"], look["verdict"]["decision"]) for look in explained["looks"]] == [(2, "HOLD"), (3, "HOLD")]
    assert (home / "trial.png").read_bytes().startswith(b"\x89PNG")
    shown = run(home, "canary", "explain", "mf")
    assert "check ┃ version 2 ┃ version 3" in shown
    assert "HOLD: version 3 of mf at 10%" in shown
    alone = answer(home, "canary", "explain", "mf", "--version", "3")
    assert [look["version"] for look in alone["looks"]] == [3]
    with pytest.raises(NotFoundError, match="no verdict yet about version 9 of 'mf'"):
        run(home, "canary", "explain", "mf", "--version", "9")
    left = answer(home, "canary", "abort", "mf", "2")
    assert (left["candidate"], left["rivals"]) == (3, [])
    history = answer(home, "canary", "history", "mf")
    assert [entry["kind"] for entry in history] == ["rollout", "verdict", "verdict", "rollout"]
    assert "version 2 and 3 on trial at 10.00%" in history[0]["summary"]
    assert [entry["payload"]["rollout"]["candidate"] for entry in history[1:3]] == [3, 2]
    assert [entry["id"] for entry in answer(home, "canary", "history", "mf", "--limit", "1")] == [history[-1]["id"]]
    shown = run(home, "canary", "history", "mf")
    assert all(f" {entry['id']} " in shown for entry in history)


def test_the_status_tells_the_newest_look_of_this_trial(home: Path) -> None:
    run(home, "canary", "start", "mf", "2", "--steps", "0.1,1")
    assert (answer(home, "canary", "status", "mf")["looked_at"], run(home, "canary", "status", "mf")[-1]) == ("", ")")
    run(home, "canary", "judge", "mf", code=10)
    entries = len(answer(home, "canary", "history", "mf"))
    run(home, "canary", "judge", "mf", code=10)
    told = answer(home, "canary", "status", "mf")
    assert len(answer(home, "canary", "history", "mf")) == entries  # the newest look said nothing new
    assert told["looked_at"] > answer(home, "canary", "history", "mf")[-1]["at"]
    assert told["verdicts"]["2"]["decision"] == "HOLD"
    assert f"{told['looked_at']}: HOLD: version 2 of mf at 10%" in run(home, "canary", "status", "mf")
    run(home, "canary", "abort", "mf")
    run(home, "canary", "start", "mf", "3", "--steps", "0.1,1")
    assert answer(home, "canary", "status", "mf")["verdicts"] == {}


def test_a_verdict_is_explained_and_drawn(home: Path) -> None:
    run(home, "canary", "start", "mf", "2", "--steps", "0.1,1")
    for _ in range(2):
        run(home, "canary", "judge", "mf", code=10)
    drawn = answer(home, "canary", "explain", "mf", "--png", str(home / "trial.png"))
    assert (drawn["same_decision"], len(drawn["looks"])) == (True, 2)
    assert (home / "trial.png").read_bytes().startswith(b"\x89PNG")
    first = drawn["looks"][0]["number"]
    assert "refused at load" in run(home, "canary", "explain", "mf", str(first))
    with pytest.raises(NotFoundError, match="the ledger has no verdict 99 about 'mf'"):
        run(home, "canary", "explain", "mf", "99")
