import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import named
from monitoring.canary.evidence import ArmEvidence, ShadowEvidence, decode_evidence, encode_evidence
from monitoring.canary.judge import judge, record, replay
from monitoring.canary.paired import pair_losses
from monitoring.ledger import Ledger
from monitoring.losses import LossSums

from .arms import NOTHING, ROLLOUT, arm, evidence

SETTINGS = JudgeSettings()
LAST = dataclasses.replace(ROLLOUT, step=4, weight=1.0)
COMPARED_LAST = dataclasses.replace(ROLLOUT, step=3, weight=0.5)
"""The last step that has a control."""

NEVER_ALONE = dataclasses.replace(ROLLOUT, steps=(0.1, 0.6), step=1, weight=0.6)
AT_ONCE = dataclasses.replace(ROLLOUT, steps=(1.0,), weight=1.0)


def verdict(control, candidate, rollout=ROLLOUT, alone=NOTHING):
    return judge(evidence(control, candidate, rollout, alone), rollout, SETTINGS)


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
        ({**GOOD, "not_finite": 1}, {**GOOD, "not_finite": 2}, ROLLOUT, "STEP"),
        ({**GOOD, "not_finite": 1}, {**GOOD, "not_finite": 40}, ROLLOUT, "ABORT"),
        # An empty answer can be right: the caller may have excluded all there is.
        (GOOD, {**GOOD, "recommends": 1, "empty": 1}, ROLLOUT, "STEP"),
        ({**GOOD, "recommends": 500}, {**GOOD, "recommends": 500, "empty": 4}, ROLLOUT, "STEP"),
        ({**GOOD, "recommends": 500, "empty": 90}, {**GOOD, "recommends": 500, "empty": 100}, ROLLOUT, "STEP"),
        ({**GOOD, "recommends": 500}, {**GOOD, "recommends": 500, "empty": 40}, ROLLOUT, "ABORT"),
        ({**GOOD, "recommends": 100}, {"requests": 20, "recommends": 10, "empty": 10}, ROLLOUT, "ABORT"),
        ({**GOOD, "recommends": 50, "empty": 50}, {**GOOD, "recommends": 50, "empty": 50}, ROLLOUT, "STEP"),
        ({"requests": 40}, {"requests": 40, "errors": 1.0}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "errors": 0.03}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "slower": 3.0}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "worse": 1.4}, ROLLOUT, "ABORT"),
        (GOOD, {**GOOD, "not_finite": 1}, dataclasses.replace(ROLLOUT, state="paused"), "ABORT"),
        # Better is fine.
        ({**GOOD, "errors": 0.03}, GOOD, ROLLOUT, "STEP"),
        ({**GOOD, "slower": 3.0, "worse": 1.4}, GOOD, LAST, "PROMOTE"),
        # Labels: none at all do not hold it up, too few do at the last step that has a control.
        ({**GOOD, "labels": 0}, {**GOOD, "labels": 0}, LAST, "PROMOTE"),
        ({**GOOD, "labels": 50}, {**GOOD, "labels": 50}, ROLLOUT, "STEP"),
        ({**GOOD, "labels": 0}, {**GOOD, "labels": 0}, COMPARED_LAST, "STEP"),
        ({**GOOD, "labels": 50}, {**GOOD, "labels": 50}, COMPARED_LAST, "HOLD"),
        ({**GOOD, "users": 3}, {**GOOD, "users": 3}, COMPARED_LAST, "HOLD"),
        ({**GOOD, "labels": 50}, {**GOOD, "labels": 50}, NEVER_ALONE, "HOLD"),
        (GOOD, GOOD, NEVER_ALONE, "PROMOTE"),
        # Where no control can come any more, none is waited for.
        ({**GOOD, "labels": 50}, {**GOOD, "labels": 50}, LAST, "PROMOTE"),
        ({**GOOD, "users": 3}, {**GOOD, "users": 3}, LAST, "PROMOTE"),
        ({"requests": 0}, GOOD, LAST, "PROMOTE"),
    ],
)
def test_the_truth_table(control, candidate, rollout, decision):
    assert decide(control, candidate, rollout) == decision


@pytest.mark.parametrize(
    ("alone", "decision"),
    [
        (GOOD, "PROMOTE"),
        ({"requests": 199}, "HOLD"),
        # A bad hour of the whole service: nobody can say that it is the candidate's doing.
        ({**GOOD, "errors": 0.05, "slower": 3.0, "worse": 2.0}, "PROMOTE"),
        # The guards go on.
        ({**GOOD, "errors": 0.5}, "ABORT"),
        ({**GOOD, "not_finite": 1}, "ABORT"),
        ({**GOOD, "recommends": 300, "empty": 200}, "ABORT"),
        ({**GOOD, "recommends": 300, "empty": 4}, "PROMOTE"),
    ],
)
def test_alone_only_the_guards_look(alone, decision):
    rng = np.random.default_rng(0)
    values = {"requests": 1000, "fresh_requests": 0, "recommends": 300}
    found = verdict(arm(rng, **values), arm(rng, **values), LAST, arm(rng, **alone))
    assert found.decision == decision


def test_what_was_compared_before_still_aborts_when_its_labels_come_late():
    rng = np.random.default_rng(0)
    found = verdict(arm(rng, 3000), arm(rng, 3000, worse=1.4), LAST, arm(rng, 10))
    assert found.decision == "ABORT"
    assert found.reasons[0].startswith("quality")


@pytest.mark.parametrize(
    ("alone", "decision"), [(GOOD, "PROMOTE"), ({"requests": 50, "errors": 1.0}, "ABORT"), ({"requests": 50}, "HOLD")]
)
def test_all_traffic_at_once_has_guards_though_no_control(alone, decision):
    assert verdict(NOTHING, NOTHING, AT_ONCE, arm(np.random.default_rng(0), **alone)).decision == decision


def test_evidence_from_before_empty_answers_had_a_share_is_still_judged():
    rng = np.random.default_rng(0)
    payload = encode_evidence(evidence(arm(rng, 3000, empty=9), arm(rng, 3000, empty=9)))
    del payload["alone"]
    for side in ("control", "candidate"):
        del payload[side]["recommends"]
    assert judge(decode_evidence(payload), ROLLOUT, SETTINGS).decision == "STEP"


@pytest.mark.parametrize(("rollout", "decision"), [(ROLLOUT, "STEP"), (COMPARED_LAST, "HOLD"), (LAST, "PROMOTE")])
def test_at_the_last_step_with_a_control_the_judge_waits_for_slices_of_time(rollout, decision):
    """250 requests of each arm are no more than ten: a candidate that was slower in all of them would not be seen."""
    rng = np.random.default_rng(0)
    few, many = (verdict(arm(rng, n, labels=0), arm(rng, n, labels=0), rollout) for n in (250, 600))
    assert (few.decision, many.decision) == (decision, "PROMOTE" if rollout is LAST else "STEP")
    assert named(few.checks, "latency").outcome == "waiting"
    assert named(many.checks, "latency").outcome == "fine"
    if decision == "HOLD":
        assert few.reasons == (named(few.checks, "latency").detail,)


def test_a_far_slower_candidate_is_aborted_as_soon_as_slices_suffice():
    rng = np.random.default_rng(0)
    found = verdict(arm(rng, 500), arm(rng, 500, slower=6.0))
    assert found.decision == "ABORT"
    latency = named(found.checks, "latency")
    assert found.reasons[0].startswith("latency: p99 ")
    assert latency.limit < 1.0 < latency.at_least < latency.difference


def test_evidence_from_before_latencies_were_sliced_is_still_judged():
    rng = np.random.default_rng(0)
    payload = encode_evidence(evidence(arm(rng, 3000), arm(rng, 3000, slower=3.0)))
    del payload["latency_ratios"]
    found = judge(decode_evidence(payload), ROLLOUT, SETTINGS)
    assert (found.decision, named(found.checks, "latency").outcome) == ("STEP", "waiting")


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
        "refused at load": "fine",
        "not finite": "fine",
        "many errors": "fine",
        "many empty answers": "fine",
        "empty answers": "fine",
        "errors": "worse",
        "latency": "fine",
        "quality": "fine",
        "paired quality": "waiting",
        "paired AUC": "waiting",
        "hit rate": "waiting",
        "unknown ids": "fine",
        "constant output": "fine",
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
    recommends = draw(st.integers(0, requests))
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
        recommends=recommends,
        empty=draw(st.integers(0, recommends)),
        latency_counts=histogram,
        losses=losses,
    )


@settings(max_examples=60, deadline=None)
@given(control=arms(), candidate=arms(), alone=arms(), step=st.integers(0, 4))
def test_what_holds_for_any_evidence(control, candidate, alone, step):
    rollout = dataclasses.replace(ROLLOUT, step=step, weight=ROLLOUT.steps[step])
    seen = evidence(control, candidate, rollout, alone if step == 4 else NOTHING)
    found = judge(seen, rollout, SETTINGS)
    assert found == judge(decode_evidence(msgspec.json.encode(encode_evidence(seen))), rollout, SETTINGS)
    assert found.reasons
    needed = SETTINGS.min_requests
    if seen.candidate_overall.fresh_requests < needed or (step < 4 and control.requests < needed):
        assert found.decision in ("HOLD", "ABORT")
    elif step == 4:
        assert found.decision in ("PROMOTE", "ABORT")
    if seen.candidate_overall.not_finite and not control.not_finite:
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
    """The real judge at five sizes of 80 equal releases. All are drawn anew, so one in hundreds may be out of luck."""
    rng = np.random.default_rng(4)
    sizes = (200, 500, 1000, 3000, 6000)
    decisions = [verdict(arm(rng, n, errors=0.01), arm(rng, n, errors=0.01)).decision for _ in range(80) for n in sizes]
    assert decisions.count("ABORT") <= 2
    assert set(decisions) <= {"STEP", "ABORT"}


@pytest.mark.parametrize(
    ("until", "decision"), [("2026-01-14T00:00:00Z", "STEP"), ("2026-01-16T00:00:00Z", "ABORT"), (None, "STEP")]
)
def test_a_trial_has_a_maximum_duration(until, decision):
    rng = np.random.default_rng(5)
    seen = dataclasses.replace(evidence(arm(rng, 1000), arm(rng, 1000)), until=until)
    found = judge(seen, ROLLOUT, SETTINGS)
    assert found.decision == decision
    assert ("duration" in found.reasons[0]) == (decision == "ABORT")


def test_one_score_for_everything_aborts_unless_stable_does_that_too():
    rng = np.random.default_rng(6)
    varied, constant = (arm(rng, 300, scored=60, lowest=low, highest=4.0) for low in (1.0, 4.0))
    assert verdict(varied, constant).reasons[0].startswith("constant output")
    assert verdict(constant, constant).decision == verdict(constant, varied).decision == "STEP"
    assert verdict(varied, dataclasses.replace(constant, scored=49)).decision == "STEP"


def test_the_same_question_asked_again_and_again_is_no_constant_output():
    rng = np.random.default_rng(6)
    varied, constant = (arm(rng, 300, scored=60, lowest=low, highest=4.0, asked=60) for low in (1.0, 4.0))
    assert verdict(varied, constant).decision == "ABORT"
    assert verdict(varied, dataclasses.replace(constant, asked=1)).decision == "STEP"


def test_from_shadow_to_all_traffic_waits_for_labels_that_have_begun_to_come():
    rng = np.random.default_rng(6)
    answered = arm(rng, 300, labels=0)
    rollout = dataclasses.replace(ROLLOUT, steps=(0.0, 1.0), step=0, weight=0.0, shadow=0.1)

    def decision(labels: int) -> str:
        stable = rng.uniform(0.0, 2.0, labels)
        pairs = pair_losses(stable, stable, np.arange(labels))
        shadow = ShadowEvidence(candidate=answered, control=answered, pairs=pairs)
        seen = dataclasses.replace(evidence(NOTHING, NOTHING, rollout), shadow=shadow)
        return judge(seen, rollout, SETTINGS).decision

    assert [decision(0), decision(20), decision(3000)] == ["STEP", "HOLD", "STEP"]
