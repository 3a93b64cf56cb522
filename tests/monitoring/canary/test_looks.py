"""Which of the judge's looks are worth an entry, and what is kept of the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from driftwheel.errors import DataError
from driftwheel.settings import JudgeSettings
from monitoring.canary.judge import judge
from monitoring.canary.looks import Looks, keep_looks, looks_of, newest_look, written_down
from monitoring.canary.several import Judged
from tests.monitoring.canary.arms import ROLLOUT, arm, evidence

AT, SOON, LATER = "2026-01-01T10:00:00Z", "2026-01-01T10:59:59Z", "2026-01-01T11:00:00Z"


def judged(requests: int, *, labels: int = 0, errors: float = 0.0) -> Judged:
    rng = np.random.default_rng(0)
    seen = evidence(arm(rng, requests, labels=labels), arm(rng, requests, labels=labels, errors=errors))
    return Judged(version=2, evidence=seen, verdict=judge(seen, ROLLOUT, JudgeSettings()))


def after(one: Judged) -> Looks:
    payloads = {"2": {"verdict": {}}}
    return Looks(started_at=ROLLOUT.started_at, at=AT, payloads=payloads, written=dict(written_down(one, ROLLOUT, AT)))


def test_the_first_look_at_a_version_is_news():
    assert Looks(started_at=ROLLOUT.started_at).is_news(judged(0), ROLLOUT, AT)
    assert after(judged(0)).is_news(replace(judged(0), version=3), ROLLOUT, AT)


def test_the_same_again_is_none_for_an_hour():
    one = judged(100)
    assert one.verdict.decision == "HOLD"
    assert not after(one).is_news(one, ROLLOUT, SOON)
    assert after(one).is_news(one, ROLLOUT, LATER)


def test_a_little_more_is_none_and_a_tenth_more_is():
    more = judged(109)
    assert more.verdict.reasons != judged(100).verdict.reasons  # its numbers are others
    assert not after(judged(100)).is_news(more, ROLLOUT, SOON)
    assert after(judged(100)).is_news(judged(111), ROLLOUT, SOON)
    assert after(judged(0)).is_news(judged(1), ROLLOUT, SOON)
    assert after(judged(100, labels=40)).is_news(judged(100, labels=45), ROLLOUT, SOON)


def test_another_outcome_step_or_state_is_news():
    one = judged(1000)
    assert after(one).is_news(judged(1000, errors=0.5), ROLLOUT, SOON)
    assert after(one).is_news(one, replace(ROLLOUT, step=1), SOON)
    assert after(one).is_news(one, replace(ROLLOUT, state="paused"), SOON)


def test_what_is_kept_is_of_one_trial_and_a_damaged_file_is_named(tmp_path: Path):
    assert newest_look(tmp_path, "movies") is None
    looks = after(judged(100))
    keep_looks(tmp_path, "movies", looks)
    assert looks_of(tmp_path, ROLLOUT) == looks
    assert newest_look(tmp_path, "movies") == looks
    keep_looks(tmp_path, "movies", replace(looks, payloads={}))  # as before there was one for each version
    assert newest_look(tmp_path, "movies") is None
    assert looks_of(tmp_path, ROLLOUT).written == looks.written
    later = replace(ROLLOUT, started_at=LATER)
    assert looks_of(tmp_path, later) == Looks(started_at=LATER)
    (tmp_path / "movies.json").write_text("{")
    with pytest.raises(DataError, match=r"movies\.json is damaged"):
        looks_of(tmp_path, ROLLOUT)
