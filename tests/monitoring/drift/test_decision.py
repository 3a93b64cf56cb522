import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.settings import DriftSettings
from monitoring.drift.decision import Before, decide_drift, record, replay
from monitoring.drift.scores import EstimatedQuality, MonitorScore, QualityScore, WindowScores

SETTINGS = DriftSettings()


def score(monitor, p_value, group="input"):
    return MonitorScore(
        monitor=monitor, column=monitor, group=group, kind="number", statistic=0.1, p_value=p_value, why=f"{monitor} moved"
    )  # fmt: skip


def quality(outcome):
    return QualityScore(
        outcome=outcome, loss="Brier score", labelled=500, clusters=500, reference_mean=0.1, window_mean=0.2,
        at_least=0.1, margin=0.05,
    )  # fmt: skip


def window(
    *, inputs=1.0, predictions=1.0, outcome="fine", faults=(), since=None, since_outcome="fine", expected="fine"
):
    """``since``: the p-value of an input beside the first rows of a version that a retrain made."""
    scores = (score("a", inputs), score("b", 0.5), score("out", predictions, "prediction"))
    return WindowScores(
        start="s", end="e", rows=2000, scores=scores, quality=quality(outcome), faults=faults,
        since_first=None if since is None else (score("a", since), score("b", 0.5)),
        quality_since_first=None if since is None else quality(since_outcome),
        estimated=EstimatedQuality(
            outcome=expected, reference_loss=0.1, window_loss=0.13, reference_auc=0.8, window_auc=0.7, at_least=0.2
        ),
    )  # fmt: skip


DRIFTED = {"inputs": 1e-6, "predictions": 1e-6}


def test_no_window_is_not_enough_rows():
    decision = decide_drift([], SETTINGS)
    assert (decision.status, decision.retrain, decision.windows) == ("not enough rows", False, 0)


@pytest.mark.parametrize(
    ("windows", "status", "retrain"),
    [
        ([window(), window(), window()], "stable", False),
        ([window(**DRIFTED), window(), window()], "stable", False),
        ([window(**DRIFTED), window(), window(**DRIFTED)], "drift", True),
        ([window(**DRIFTED)] * 3, "drift", True),
        ([window(**DRIFTED)], "not enough rows", False),
        ([window(outcome="down")], "not enough rows", False),
        ([window(**DRIFTED, faults=("column a is not there",))], "broken data", False),
        ([window(), window()], "stable", False),
        ([window(inputs=1e-6)] * 3, "drift", False),
        ([window(predictions=1e-6)] * 3, "drift", False),
        ([window(outcome="down")] * 2 + [window()], "drift", True),
        ([window(outcome="down")] + [window()] * 2, "stable", False),
        ([window(outcome="not enough labels")] * 3, "stable", False),
        ([window(**DRIFTED)] * 2 + [window(faults=("column a is not there",))], "broken data", False),
        ([window(outcome="down", faults=("column a is not there",))] * 3, "broken data", False),
        # Older windows than settings.windows do not count.
        ([window(**DRIFTED)] * 3 + [window()] * 3, "stable", False),
    ],
)
def test_the_policy(windows, status, retrain):
    decision = decide_drift(windows, SETTINGS)
    assert (decision.status, decision.retrain) == (status, retrain)


@pytest.mark.parametrize(
    ("only", "seen"),
    [
        (window(), "no monitor alarms so far"),
        (window(predictions=1e-6, outcome="down"), "alarms so far: out; quality is down so far"),
    ],
)
def test_too_few_windows_are_shown_though_nothing_is_called(only, seen):
    decision = decide_drift([only], SETTINGS)
    assert decision.summary == f"not enough rows: 1 of the 2 windows needed; {seen}"
    assert {outcome.monitor for outcome in decision.outcomes} == {"a", "b", "out"}
    assert decision.windows == 1


@pytest.mark.parametrize(
    ("windows", "retrain", "answered"),
    [
        ([window(**DRIFTED)] * 3, True, False),
        ([window(**DRIFTED, since=0.5)] * 3, False, True),
        ([window(**DRIFTED, since=1e-6)] + [window(**DRIFTED, since=0.5)] * 2, False, True),
        ([window(**DRIFTED, since=1e-6)] * 2 + [window(**DRIFTED, since=0.5)], True, False),
        ([window(inputs=1e-6, since=0.5)] * 3, False, False),
        ([window(outcome="down", since=0.5)] * 3, False, True),
        ([window(outcome="down", since=0.5, since_outcome="down")] * 3, True, False),
        # Quality is answered, and the inputs have moved on: each counts by itself.
        ([window(**DRIFTED, outcome="down", since=1e-6)] * 3, True, False),
        ([window(outcome="down", since=1e-6)] * 3, False, True),
        ([window(since=0.5)] * 3, False, False),
    ],
)
def test_a_shift_gets_one_retrain(windows, retrain, answered):
    decision = decide_drift(windows, SETTINGS)
    assert (decision.retrain, decision.answered) == (retrain, answered)


def test_what_is_expected_without_labels_is_told_and_starts_nothing():
    decision = decide_drift([window(expected="down")] * 2 + [window()], SETTINGS)
    assert (decision.status, decision.estimated_down, decision.retrain) == ("stable", True, False)
    assert decision.summary.endswith("without labels, a loss at least 20% above the reference's is to be expected")
    assert not decide_drift([window(expected="down"), window(), window()], SETTINGS).estimated_down
    assert not decide_drift([window(expected="not calibrated")] * 3, SETTINGS).estimated_down


def test_records_of_before_are_decided_as_they_were():
    """They have no scores beside first rows and no expected quality."""
    windows = [window(**DRIFTED)] * 3
    payload = msgspec.json.decode(
        msgspec.json.encode(record(windows, SETTINGS, decide_drift(windows, SETTINGS), version=3))
    )
    for one in payload["windows"]:
        for name in ("hours", "since_first", "quality_since_first", "estimated"):
            del one[name]
    for name in ("answered", "estimated_down"):
        del payload["decision"][name]
    before, today = replay(payload)
    assert before == today
    assert today.retrain


def test_one_monitor_here_and_another_there_is_no_drift():
    windows = [window(inputs=1e-6), window(predictions=1e-6), window()]
    decision = decide_drift(windows, SETTINGS)
    assert not decision.input_drift
    assert not decision.prediction_drift


def test_what_drifted_comes_first_and_is_explained():
    decision = decide_drift([window(predictions=1e-9), window(predictions=1e-9), window()], SETTINGS)
    first = decision.outcomes[0]
    assert (first.monitor, first.alarms, first.windows) == ("out", 2, 3)
    assert "out drifts (out moved)" in decision.summary
    assert "no retrain" in decision.summary


def test_holm_is_over_the_monitors_of_a_window():
    # Three monitors at alpha 0.001: the smallest p-value must be below 0.00034.
    assert not decide_drift([window(inputs=0.0005)] * 3, SETTINGS).input_drift
    assert decide_drift([window(inputs=0.0003)] * 3, SETTINGS).input_drift


windows_of = st.builds(
    window,
    inputs=st.floats(0, 1),
    predictions=st.floats(0, 1),
    outcome=st.sampled_from(["fine", "down", "not enough labels"]),
    faults=st.sampled_from([(), (), ("column a is not there",)]),
    since=st.one_of(st.none(), st.floats(0, 1)),
    expected=st.sampled_from(["fine", "down", "not calibrated", "not enough rows"]),
)


@settings(max_examples=100)
@given(st.lists(windows_of, max_size=5))
def test_a_decision_is_replayed_from_the_ledger(windows):
    decision = decide_drift(windows, SETTINGS)
    payload = msgspec.json.decode(msgspec.json.encode(record(windows, SETTINGS, decision, version=3)))
    assert replay(payload) == (decision, decision)
    assert not (decision.schema_broken and decision.retrain)
    if decision.retrain:
        assert decision.quality_down or (decision.input_drift and decision.prediction_drift)


def test_what_drifts_goes_on_until_no_window_shows_it_and_starts_no_retrain_by_that():
    once = [window(), window(), window(**DRIFTED, outcome="down")]
    assert decide_drift(once, SETTINGS).status == "stable"
    called = decide_drift([window(**DRIFTED, outcome="down")] * 2 + [window()], SETTINGS)
    assert called.retrain
    payload = record([window()], SETTINGS, called, version=3)
    before = Before.of(payload, version=3)
    assert before == Before(monitors=("a", "out"), quality_down=True)
    held = decide_drift(once, SETTINGS, before)
    assert (held.status, held.input_drift, held.prediction_drift, held.quality_down) == ("drift", True, True, True)
    assert (held.retrain, held.answered) == (False, False)
    assert decide_drift([window()] * 3, SETTINGS, before).status == "stable"
    assert Before.of(payload, version=4) == Before()  # another version has another reference


def test_a_decision_is_replayed_with_what_was_before_it():
    windows, before = [window(), window(), window(**DRIFTED)], Before(monitors=("a",))
    made = decide_drift(windows, SETTINGS, before)
    payload = msgspec.json.decode(msgspec.json.encode(record(windows, SETTINGS, made, version=3, before=before)))
    assert replay(payload) == (made, made)
    del payload["before"]  # as releases before wrote them
    assert replay(payload)[1].status == "stable"
