"""Several versions on trial: each judged by itself, and one decision about them all."""

import dataclasses

import numpy as np
import pytest

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import named, needed_alone
from monitoring.canary.judge import judge
from monitoring.canary.several import Judged, TrialVerdict, decide, settings_for

from .arms import ROLLOUT, arm, evidence

SETTINGS = JudgeSettings(max_days=0)
TRIAL = dataclasses.replace(ROLLOUT, rivals=(3, 4), began=(2, 3, 4), steps=(0.01, 0.2, 0.5, 1.0), weight=0.2, step=1)


def judged(rollout, **arms):
    """Verdicts on versions (``v2``, ``v3``, ...) whose arms differ from control's as said."""
    rng, found = np.random.default_rng(3), []
    control = arm(rng, 4000)
    for name, how in arms.items():
        version = int(name[1:])
        own = rollout.about(version)
        seen = dataclasses.replace(evidence(control, arm(rng, 4000, **how), own), candidate_version=version)
        found.append(Judged(version=version, evidence=seen, verdict=judge(seen, own, settings_for(rollout, SETTINGS))))
    return found


def test_the_losers_are_dropped_and_the_others_go_on():
    looks = judged(TRIAL, v2={"errors": 0.05}, v3={}, v4={"worse": 2.0})
    assert [one.verdict.decision for one in looks] == ["ABORT", "STEP", "ABORT"]
    verdict, dropped = decide(looks, TRIAL, SETTINGS)
    assert (verdict.decision, dropped) == ("HOLD", (2, 4))
    assert "version 2 is dropped: errors" in verdict.summary
    assert isinstance(verdict, TrialVerdict)
    assert [(one.version, one.verdict) for one in verdict.arms] == [(one.version, one.verdict) for one in looks]
    assert named(verdict.checks, "4: quality").outcome == "worse"
    assert named(verdict.checks, "3: errors").outcome == "fine"


def test_when_none_is_left_the_trial_is_aborted():
    verdict, dropped = decide(
        judged(TRIAL, v2={"errors": 0.05}, v3={"errors": 0.1}, v4={"errors": 0.2}), TRIAL, SETTINGS
    )
    assert (verdict.decision, dropped) == ("ABORT", (2, 3, 4))


def test_all_step_together_while_there_is_room():
    first = dataclasses.replace(TRIAL, weight=0.01, step=0)
    assert decide(judged(first, v2={}, v3={}, v4={}), first, SETTINGS)[0].decision == "STEP"
    waiting = judged(first, v2={}, v3={"fresh_requests": 10}, v4={})
    verdict, dropped = decide(waiting, first, SETTINGS)
    assert (verdict.decision, dropped, "version 3: the candidate has 10" in verdict.summary) == ("HOLD", (), True)


@pytest.mark.parametrize("steps", [(0.01, 0.2, 0.5, 1.0), (0.01, 0.2)])
def test_where_there_is_no_room_the_best_stays(steps):
    trial = dataclasses.replace(TRIAL, steps=steps)
    verdict, dropped = decide(judged(trial, v2={}, v3={"worse": 0.8}, v4={}), trial, SETTINGS)
    assert (verdict.decision, dropped) == ("HOLD", (2, 4))
    assert "version 3 stays, by its mean loss" in verdict.summary


def test_without_labels_the_fewest_errors_stay_and_some_labels_are_waited_for():
    bare = {"labels": 0, "errors": 0.002}
    verdict, dropped = decide(judged(TRIAL, v2=bare, v3={**bare, "errors": 0.0}, v4=bare), TRIAL, SETTINGS)
    assert (verdict.decision, dropped, "share of errors" in verdict.summary) == ("HOLD", (2, 4), True)
    verdict, dropped = decide(judged(TRIAL, v2={}, v3={"labels": 30}, v4={}), TRIAL, SETTINGS)
    assert (verdict.decision, dropped, "30 of 200 labels" in verdict.summary) == ("HOLD", (), True)


def test_of_equals_the_first_stays():
    looks = [
        dataclasses.replace(one, evidence=judged(TRIAL, v2={})[0].evidence)
        for one in judged(TRIAL, v2={}, v3={}, v4={})
    ]
    assert decide(looks, TRIAL, SETTINGS)[1] == (3, 4)


def test_they_share_the_chance_of_a_false_abort_to_the_end():
    alone = dataclasses.replace(TRIAL, candidate=3, rivals=())
    for rollout in (TRIAL, alone):
        assert settings_for(rollout, SETTINGS).alpha == pytest.approx(SETTINGS.alpha / 3)
    assert settings_for(ROLLOUT, SETTINGS) == SETTINGS
    assert needed_alone("errors", settings_for(TRIAL, SETTINGS)) == pytest.approx(
        needed_alone("errors", SETTINGS) + np.log(3)
    )


def test_one_alone_is_judged_as_ever():
    (one,) = judged(ROLLOUT, v2={})
    assert decide([one], ROLLOUT, SETTINGS) == (one.verdict, ())
