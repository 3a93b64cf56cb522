import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.settings import JudgeSettings
from monitoring.canary.checks import named
from monitoring.canary.evidence import ArmEvidence, decode_evidence, encode_evidence
from monitoring.canary.judge import judge, record, replay
from monitoring.ledger import Ledger
from monitoring.losses import LossSums

from .arms import ROLLOUT, arm, evidence

SETTINGS = JudgeSettings()
LAST = dataclasses.replace(ROLLOUT, step=4, weight=1.0)


def verdict(control, candidate, rollout=ROLLOUT):
    return judge(evidence(control, candidate, rollout), rollout, SETTINGS)


def decide(control_values, candidate_values, rollout=ROLLOUT):
    rng = np.random.default_rng(0)
    return verdict(arm(rng, **control_values), arm(rng, **candidate_values), rollout).decision


GOOD = {"requests": 3000}


@pytest.mark.parametrize(
    ("control", "candidate", "rollout", "decision"),
    [
        (GOOD, GOOD, ROLLOUT, "STEP"),
        (GOOD, GOOD, LAST, "PROMOTE"),
        (GOOD, GOOD, dataclasses.replace(LAST, state="paused"), "HOLD"),
        ({"requests": 199}, GOOD, ROLLOUT, "HOLD"),
        (GOOD, {"requests": 199}, ROLLOUT, "HOLD"),
        (GOOD, {**GOOD, "fresh_requests": 199}, ROLLOUT, "HOLD"),
        # Evidence against the candidate.
        (GOOD, {**GOOD, "not_finite": 1}, ROLLOUT, "ABORT"),
        ({"requests": 5}, {"requests": 5, "not_finite": 1}, ROLLOUT, "ABORT"),
        (GOOD, {"requests": 5, "empty": 1}, ROLLOUT, "ABORT"),
        ({**GOOD, "empty": 1}, {**GOOD, "empty": 1}, ROLLOUT, "STEP"),
        ({"requests": 40}, {"requests": 40, "errors": 1.0}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "errors": 0.03}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "slower": 3.0}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "worse": 1.4}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "not_finite": 1}, dataclasses.replace(ROLLOUT, state="paused"), "ABORT"),
        # Better is fine.
        ({**GOOD, "errors": 0.03}, GOOD, ROLLOUT, "STEP"),
        ({**GOOD, "slower": 3.0, "worse": 1.4}, GOOD, LAST, "PROMOTE"),
        # Labels: none at all do not hold it up, too few do at the last step.
        ({**GOOD, "labels": 0}, {**GOOD, "labels": 0}, LAST, "PROMOTE"),
        ({**GOOD, "labels": 50}, {**GOOD, "labels": 50}, ROLLOUT, "STEP"),
        ({**GOOD, "labels": 50}, {**GOOD, "labels": 50}, LAST, "HOLD"),
        ({**GOOD, "users": 3}, {**GOOD, "users": 3}, LAST, "HOLD"),
    ],
)
def test_the_truth_table(control, candidate, rollout, decision):
    assert decide(control, candidate, rollout) == decision


def test_evidence_about_other_versions_is_not_judged():
    rng = np.random.default_rng(0)
    seen = evidence(arm(rng, 300), arm(rng, 300, not_finite=3))
    assert judge(seen, dataclasses.replace(ROLLOUT, candidate=3), SETTINGS).decision == "HOLD"


def test_a_verdict_says_which_check_failed_and_by_how_much():
    rng = np.random.default_rng(1)
    found = verdict(arm(rng, 5000), arm(rng, 5000, errors=0.05))
    assert found.summary.startswith("ABORT: version 2 of movies at 1%: errors:")
    errors = named(found.checks, "errors")
    assert errors.outcome == "worse"
    assert errors.candidate == pytest.approx(0.05, abs=0.01)
    assert errors.limit < errors.at_least < 0.05
    assert errors.log_e is not None
    assert errors.needed is not None
    assert errors.log_e > errors.needed
    assert {check.name: check.outcome for check in found.checks} == {
        "not finite": "fine",
        "empty answers": "fine",
        "many errors": "fine",
        "errors": "worse",
        "latency": "fine",
        "quality": "fine",
    }


def test_no_labels_is_said():
    rng = np.random.default_rng(2)
    quality = named(verdict(arm(rng, 500, labels=0), arm(rng, 500, labels=0)).checks, "quality")
    assert (quality.outcome, quality.log_e) == ("waiting", None)
    assert quality.detail.startswith("not enough labels: 0 labels")


def test_the_ledger_replays_a_verdict(tmp_path):
    rng = np.random.default_rng(3)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for worse in (1.0, 2.0):
        seen = evidence(arm(rng, 1000), arm(rng, 1000, worse=worse))
        found = judge(seen, ROLLOUT, SETTINGS)
        payload = record(seen, ROLLOUT, SETTINGS, found)
        ledger.append("verdict", "movies", at="t", summary=found.summary, payload=payload)
        kept = ledger.latest("movies", "verdict")[0].payload
        assert decode_evidence(kept["evidence"]) == seen
        assert replay(kept) == (found, found)


counts = st.integers(0, 5000)


@st.composite
def arms(draw):
    requests = draw(counts)
    labelled = draw(st.integers(0, requests))
    mean, spread = draw(st.floats(0, 10)), draw(st.floats(0, 10))
    losses = LossSums(
        labelled=labelled,
        loss_sum=mean * labelled,
        loss_square_sum=(mean**2 + spread) * labelled,
        clusters=labelled,
        cluster_loss_square=(mean**2 + spread) * labelled,
        cluster_loss_rows=mean * labelled,
        cluster_rows_square=labelled,
    )
    bucket = draw(st.integers(0, 337))
    errors = draw(st.integers(0, requests))
    histogram = tuple(requests - errors if i == bucket else 0 for i in range(338))
    return ArmEvidence(
        requests=requests,
        fresh_requests=draw(st.integers(0, requests)),
        errors=errors,
        not_finite=draw(st.sampled_from([0, 0, 0, 1])),
        empty=draw(st.sampled_from([0, 0, 0, 1])),
        latency_counts=histogram,
        losses=losses,
    )


@settings(max_examples=60, deadline=None)
@given(control=arms(), candidate=arms(), step=st.integers(0, 4))
def test_what_holds_for_any_evidence(control, candidate, step):
    rollout = dataclasses.replace(ROLLOUT, step=step, weight=ROLLOUT.steps[step])
    seen = evidence(control, candidate, rollout)
    found = judge(seen, rollout, SETTINGS)
    assert found == judge(decode_evidence(msgspec.json.encode(encode_evidence(seen))), rollout, SETTINGS)
    assert found.reasons
    small = min(control.requests, candidate.requests, candidate.fresh_requests) < SETTINGS.min_requests
    if small:
        assert found.decision in ("HOLD", "ABORT")
    if candidate.not_finite:
        assert found.decision == "ABORT"
    if found.decision == "PROMOTE":
        assert step == 4
    if found.decision == "ABORT":
        assert any(check.outcome == "worse" for check in found.checks)


@settings(max_examples=100, deadline=None)
@given(requests=st.integers(200, 5000), errors=st.integers(0, 200), more=st.integers(1, 200))
def test_more_errors_never_turn_an_abort_around(requests, errors, more):
    control = ArmEvidence(requests=requests, fresh_requests=requests, errors=errors // 4)
    fewer, worse = (dataclasses.replace(control, errors=min(number, requests)) for number in (errors, errors + more))
    if verdict(control, fewer).decision == "ABORT":
        assert verdict(control, worse).decision == "ABORT"


def test_equal_releases_pass_the_whole_judge():
    """The real judge, looked at as evidence grows: 80 equal releases, 5 looks each."""
    rng = np.random.default_rng(4)
    sizes = (200, 500, 1000, 3000, 6000)
    decisions = [verdict(arm(rng, n, errors=0.01), arm(rng, n, errors=0.01)).decision for _ in range(80) for n in sizes]
    assert "ABORT" not in decisions
    assert set(decisions) == {"STEP"}
