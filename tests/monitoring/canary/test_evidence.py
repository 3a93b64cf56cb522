import dataclasses
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from driftwheel.errors import DataError
from driftwheel.log_layout import shadow_log
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import (
    LATENCY_BOUNDS_US,
    ArmEvidence,
    count_latencies,
    decode_evidence,
    encode_evidence,
)
from monitoring.canary.judge import judge
from monitoring.losses import sum_losses
from tests.monitoring.worlds import CHURN, RATING, START, log_rows, telco, write_feedback, write_open, write_sealed

from .arms import ROLLOUT

IDS = 40


def requests(version, arm, n, *, rows=2, start=0, **common):
    """``n`` requests of ``rows`` rows each, one a second."""
    number = np.repeat(np.arange(start, start + n), rows)
    frame = pd.DataFrame({"in_user_id": number % IDS, "in_item_id": number, "out_rating": np.float32(3.0)})
    values = {
        "prediction_id": [f"v{version}-{i}" for i in number],
        "row": np.tile(np.arange(rows, dtype=np.int32), n),
        "at": [START + timedelta(seconds=int(i)) for i in number],
        "arm": [arm] * (n * rows),
        "latency_us": (1000 + number % 10).astype(np.int32),
        **common,
    }
    outputs = values.pop("out", None)
    if outputs is not None:
        frame["out_rating"] = outputs
    items = values.pop("item", None)
    if items is not None:
        frame["in_item_id"] = items
    return log_rows(frame, RATING, **values)


def collect(log, **changes):
    return collect_evidence(log, dataclasses.replace(ROLLOUT, **changes), RATING, "rating")


def test_requests_count_once_and_only_of_the_arms_on_trial(tmp_path):
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 30))
    write_open(tmp_path, "movies", 1, requests(1, "stable", 50, start=100))
    write_open(tmp_path, "movies", 2, requests(2, "candidate", 20, rows=3))
    write_sealed(tmp_path, "movies", 2, requests(2, "pinned", 7, start=200))
    write_sealed(tmp_path, "movies", 3, requests(3, "candidate", 9))
    seen = collect(tmp_path)
    assert (seen.control.requests, seen.candidate.requests) == (30, 20)
    assert sum(seen.control.latency_counts) == 30
    assert seen.candidate.losses.labelled == 0
    assert (seen.stable_version, seen.candidate_version, seen.step) == (1, 2, 0)
    assert decode_evidence(encode_evidence(seen)) == seen


def test_only_what_came_after_the_start_counts_and_fresh_is_since_the_step(tmp_path):
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 100))
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 100))
    seen = collect(tmp_path, started_at="2026-01-01T00:00:40Z", stepped_at="2026-01-01T00:01:30Z")
    assert (seen.candidate.requests, seen.candidate.fresh_requests) == (60, 10)


def test_errors_and_callers_faults(tmp_path):
    codes = ["OK"] * 5 + ["INTERNAL"] * 3 + ["INVALID_ARGUMENT"] * 2
    outputs = [3.0] * 5 + [None] * 5
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 10, rows=1, code=codes, out=outputs))
    seen = collect(tmp_path).candidate
    assert (seen.requests, seen.errors, seen.not_finite) == (8, 3, 0)
    assert sum(seen.latency_counts) == 5


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, None])
def test_what_is_no_number_aborts(tmp_path, bad):
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 50))
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 50, rows=1, out=[3.0] * 49 + [bad]))
    seen = collect(tmp_path)
    assert seen.candidate.not_finite == 1
    assert judge(seen, ROLLOUT, _judge_settings()).decision == "ABORT"


def test_a_withheld_answer_counts_as_not_finite(tmp_path):
    codes = ["OK", "NOT_FINITE"]
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 2, rows=1, code=codes, out=[3.0, None]))
    seen = collect(tmp_path).candidate
    assert (seen.errors, seen.not_finite) == (1, 1)


def test_an_empty_recommendation_is_seen(tmp_path):
    values = {"rows": 1, "kind": ["recommend"] * 3, "item": [5, None, 7], "out": [3.0, None, 4.0]}
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 3, **values))
    seen = collect(tmp_path).candidate
    assert (seen.recommends, seen.empty, seen.not_finite, seen.requests) == (3, 1, 0, 3)


def test_with_all_traffic_nothing_new_is_compared(tmp_path):
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 100, rows=1))
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 100, rows=1))
    # The labels all come after the step.
    at = START + timedelta(hours=1)
    for version in (1, 2):
        ids = [f"v{version}-{i}" for i in range(100)]
        write_feedback(tmp_path, "movies", ids, [4.0] * 100, at=at, stem=f"20260101T000000-1-{version}")
    step = {"stepped_at": "2026-01-01T00:01:10Z"}
    seen = collect(tmp_path, step=4, weight=1.0, **step)
    assert (seen.control.requests, seen.candidate.requests, seen.alone.requests) == (70, 70, 30)
    assert (seen.control.losses.labelled, seen.candidate.losses.labelled) == (70, 70)
    assert (seen.candidate.fresh_requests, seen.alone.fresh_requests) == (0, 30)
    assert seen.candidate_overall.requests == 100
    assert decode_evidence(encode_evidence(seen)) == seen
    beside = collect(tmp_path, step=3, weight=0.5, **step)
    assert (beside.control.requests, beside.candidate.requests, beside.alone) == (100, 100, ArmEvidence())
    assert beside.candidate.fresh_requests == 30


def test_all_traffic_from_the_start_compares_nothing(tmp_path):
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 50))
    seen = collect(tmp_path, steps=(1.0,), weight=1.0)
    assert (seen.candidate, seen.alone.requests, seen.alone.fresh_requests) == (ArmEvidence(), 50, 50)


def test_labels_become_clustered_squared_errors(tmp_path):
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 80, rows=1))
    ids = [f"v2-{i}" for i in range(80)]
    write_feedback(tmp_path, "movies", ids, [3.0 + (i % 2) for i in range(80)])
    losses = collect(tmp_path).candidate.losses
    assert (losses.labelled, losses.clusters) == (80, IDS)
    assert losses.mean == pytest.approx(0.5)
    # Users are even or odd like their rows: 20 users of loss 1 and 20 of loss 0.
    assert losses.variance_of_mean == pytest.approx(0.25 / IDS * IDS / (IDS - 1))


def test_churn_is_judged_by_the_brier_score(tmp_path):
    table = telco().head(300)
    rollout = dataclasses.replace(ROLLOUT, model="churn")
    write_sealed(tmp_path, "churn", 2, log_rows(table, CHURN, arm=["candidate"] * 300))
    write_feedback(tmp_path, "churn", [f"p{i:07d}" for i in range(300)], table["label"].tolist())
    losses = collect_evidence(tmp_path, rollout, CHURN, "churn").candidate.losses
    assert losses.mean == pytest.approx(float(np.square(table["out_probability"] - table["label"]).mean()), rel=1e-5)
    assert losses.clusters == 300


def test_no_log_is_no_evidence(tmp_path):
    seen = collect(tmp_path / "none")
    assert seen.control == seen.candidate == ArmEvidence()
    assert judge(seen, ROLLOUT, _judge_settings()).decision == "HOLD"


def test_a_rollout_without_a_candidate_is_refused(tmp_path):
    with pytest.raises(DataError, match="no candidate"):
        collect(tmp_path, candidate=None, weight=0.0, state="stable")
    with pytest.raises(DataError, match="no evidence"):
        decode_evidence({"model": 3})


def test_latency_buckets_hold_what_their_bounds_say():
    counts = count_latencies([0, 32, 32.1, LATENCY_BOUNDS_US[5], 1e12])
    assert (counts[0], counts[1], counts[5], counts[-1], sum(counts)) == (2, 1, 1, 1, 5)
    assert len(counts) == len(LATENCY_BOUNDS_US) + 1


def test_the_variance_of_a_clustered_mean_is_what_simulation_says():
    rng = np.random.default_rng(0)
    means, estimates = [], []
    for _ in range(400):
        whose = np.repeat(np.arange(60), 5)
        losses = rng.normal(0, 1, 60)[whose] + rng.normal(0, 1, 300)
        sums = sum_losses(losses, whose)
        means.append(sums.mean)
        estimates.append(sums.variance_of_mean)
    assert np.mean(estimates) == pytest.approx(np.var(means), rel=0.15)


def _judge_settings():
    from driftwheel.settings import JudgeSettings

    return JudgeSettings()


def test_copies_may_be_on_disk_before_what_they_are_copies_of(tmp_path):
    write_sealed(shadow_log(tmp_path), "movies", 2, requests(2, "shadow", 20))
    seen = collect(tmp_path, weight=0.0, steps=(0.0, 1.0), shadow=0.1)
    assert (seen.shadow.candidate.requests, seen.shadow.agreement.rows, seen.control.requests) == (20, 0, 0)
