"""The wheel's metrics, from a real ledger."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from driftwheel.rollout import serve_stable, start_candidate
from driftwheel.settings import DriftSettings, JudgeSettings, Settings
from monitoring.canary.judge import judge
from monitoring.canary.judge import record as verdict_record
from monitoring.canary.looks import Looks, keep_looks
from monitoring.drift.decision import decide_drift, record
from monitoring.drift.scores import EstimatedQuality, MonitorScore, QualityScore, Recommended, WindowScores
from monitoring.ledger import Ledger
from monitoring.ledger_facts import Facts
from monitoring.retrain import lease
from monitoring.wheel_metrics import WheelMetrics
from tests.monitoring.canary.arms import ROLLOUT, arm, evidence

AT = "2026-01-02T03:04:05+00:00"
SECONDS = 1767323045.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def registry(settings: Settings) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(WheelMetrics(settings))
    return made


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"driftwheel_{name}", {"model": "mf", **labels})


def append(home: Settings, kind: Any, payload: Any = None, **facts: Any) -> None:
    Ledger(home.ledger).append(kind, "mf", at=AT, summary="s", payload=payload or facts)


def a_drift_decision(estimated: EstimatedQuality | None = None, lists: Recommended | None = None) -> dict[str, Any]:
    score = MonitorScore(
        monitor="item_id unknown",
        column="in_item_id",
        group="input",
        kind="unknown",
        statistic=0.5,
        p_value=0.0,
        why="w",
    )
    quality = QualityScore(
        outcome="fine", loss="squared error", labelled=150, clusters=50, reference_mean=0.8, window_mean=0.9,
        at_least=0.0, margin=0.05,
    )  # fmt: skip
    windows = [WindowScores(start=AT, end=AT, rows=2000, scores=(score,), quality=quality, estimated=estimated)] * 3
    settings = DriftSettings()
    return record(windows, settings, decide_drift(windows, settings), version=3, recommended=lists)


def test_an_empty_home_has_a_page(registry: CollectorRegistry):
    assert b"driftwheel_drift_status" in generate_latest(registry)


def test_the_newest_drift_decision(settings: Settings, registry: CollectorRegistry):
    append(settings, "drift", a_drift_decision())
    assert value(registry, "drift_status", status="drift") == 1
    assert value(registry, "drift_status", status="stable") == 0
    assert value(registry, "drift_retrain_wanted") == 0
    assert value(registry, "drift_windows") == 3
    assert value(registry, "drift_window_rows") == 2000
    monitor = {"version": "3", "monitor": "item_id unknown", "group": "input"}
    assert value(registry, "drift_score", **monitor) == 0.5
    assert value(registry, "drift_monitor_drifted", **monitor) == 1
    assert value(registry, "quality_loss", version="3", arm="all") == 0.9
    assert value(registry, "quality_labels", version="3", arm="all") == 150
    assert value(registry, "quality_reference_loss", version="3") == 0.8
    assert value(registry, "drift_last_success_timestamp_seconds") == SECONDS
    assert value(registry, "drift_decisions_total", status="drift") == 1
    assert value(registry, "drift_decisions_total", status="broken data") == 0


def expected(outcome: Any, auc: float | None = 0.7) -> EstimatedQuality:
    return EstimatedQuality(
        outcome=outcome, reference_loss=0.12, window_loss=0.18, reference_auc=0.8, window_auc=auc, at_least=0.2
    )


def test_what_is_to_be_expected_without_labels(settings: Settings, registry: CollectorRegistry):
    append(settings, "drift", a_drift_decision(expected("down")))
    of = {"version": "3"}
    assert value(registry, "quality_estimate_reliable", **of) == 1
    assert value(registry, "quality_estimated_loss", **of) == 0.18
    assert value(registry, "quality_estimated_reference_loss", **of) == 0.12
    assert value(registry, "quality_estimated_auc", **of) == 0.7
    assert value(registry, "quality_estimated_reference_auc", **of) == 0.8
    assert value(registry, "quality_estimated_down", **of) == 1
    assert value(registry, "recommended_coverage", **of) is None
    append(settings, "drift", a_drift_decision(expected("fine", auc=None)))
    assert value(registry, "quality_estimated_down", **of) == 0
    assert value(registry, "quality_estimated_auc", **of) is None
    append(settings, "drift", a_drift_decision(expected("not calibrated")))
    assert value(registry, "quality_estimate_reliable", **of) == 0
    assert value(registry, "quality_estimated_loss", **of) is None


def test_what_is_being_recommended(settings: Settings, registry: CollectorRegistry):
    lists = Recommended(lists=42, empty_lists=2, items=800, coverage=0.25, top_share=0.5, asked_top_share=0.3)
    append(settings, "drift", a_drift_decision(lists=lists))
    of = {"version": "3"}
    assert value(registry, "recommended_lists", **of) == 42
    assert value(registry, "recommended_empty_lists", **of) == 2
    assert value(registry, "recommended_coverage", **of) == 0.25
    assert value(registry, "recommended_top_share", **of) == 0.5
    assert value(registry, "recommended_reference_top_share", **of) == 0.3
    assert value(registry, "quality_estimate_reliable", **of) is None


def test_decisions_of_older_releases_tell_neither(settings: Settings, registry: CollectorRegistry):
    older = a_drift_decision()
    del older["recommended"], older["decision"]["estimated_down"]
    for window in older["windows"]:
        del window["estimated"]
    append(settings, "drift", older)
    assert value(registry, "drift_windows") == 3
    assert value(registry, "quality_estimate_reliable", version="3") is None
    assert value(registry, "recommended_lists", version="3") is None


def test_a_retrain_is_wanted_until_one_has_done_its_work(settings: Settings, registry: CollectorRegistry):
    decision = a_drift_decision()
    decision["decision"]["retrain"] = True
    append(settings, "drift", decision)
    assert value(registry, "drift_retrain_wanted") == 1
    payload = {"event": "finished", "reason": "r", "trigger": "drift", "outcome": "failed: x", "result": "failed"}
    later = "2026-01-02T03:05:05+00:00"
    Ledger(settings.ledger).append("retrain", "mf", at=later, summary="s", payload=payload)
    assert value(registry, "drift_retrain_wanted") == 1
    payload = {**payload, "outcome": "made version 2: entered on trial", "result": "on trial"}
    Ledger(settings.ledger).append("retrain", "mf", at=later, summary="s", payload=payload)
    assert value(registry, "drift_retrain_wanted") == 0


def test_retrains_count_by_reason_and_outcome(settings: Settings, registry: CollectorRegistry):
    append(settings, "retrain", event="started", reason="r", trigger="drift")
    assert value(registry, "retrains_total", reason="drift", outcome="interrupted") is None
    append(settings, "retrain", event="started", reason="r", trigger="alert")
    append(settings, "retrain", event="finished", reason="r", trigger="alert", result="failed", outcome="failed: x")
    assert value(registry, "retrains_total", reason="drift", outcome="interrupted") == 1
    assert value(registry, "retrains_total", reason="alert", outcome="failed") == 1
    assert value(registry, "retrain_last_finish_timestamp_seconds") == SECONDS
    assert value(registry, "retrain_last_success_timestamp_seconds") is None
    append(settings, "retrain", event="started", reason="r", trigger="schedule")
    append(settings, "retrain", event="finished", reason="r", trigger="schedule", result="refused", outcome="made")
    assert value(registry, "retrain_last_success_timestamp_seconds") == SECONDS


def test_what_retrains_took_adds_up(settings: Settings, registry: CollectorRegistry):
    append(settings, "retrain", event="started", reason="r", trigger="drift")
    assert value(registry, "retrain_spent_seconds_total") == 0
    for earlier in (90, 30):
        started = datetime.fromtimestamp(SECONDS - earlier, UTC).isoformat()
        append(settings, "retrain", event="finished", reason="r", trigger="drift", result="failed", started_at=started)
    assert value(registry, "retrain_spent_seconds_total") == 120


def test_retrains_of_older_releases_count_as_unknown(settings: Settings, registry: CollectorRegistry):
    append(settings, "retrain", reason="r", outcome="made version 2: entered on trial")
    append(settings, "retrain", reason="r", outcome="failed: no rows")
    assert value(registry, "retrains_total", reason="unknown", outcome="unknown") == 1
    assert value(registry, "retrains_total", reason="unknown", outcome="failed") == 1


def test_what_runs_and_what_is_on_trial(settings: Settings, registry: CollectorRegistry):
    serve_stable(settings.rollouts, "mf", 1, by="test", now=AT)
    start_candidate(settings.rollouts, "mf", 2, by="test", now=AT)
    assert value(registry, "stable_version") == 1
    assert value(registry, "candidate_version") == 2
    assert value(registry, "rollout_weight") == 0.01
    assert value(registry, "rollout_step_timestamp_seconds") == SECONDS
    assert value(registry, "retrain_running") == 0
    with lease(settings.runtime / "retrain-mf.lock"):
        assert value(registry, "retrain_running") == 1


def test_the_judges_newest_look_counts_though_it_is_not_in_the_ledger(settings: Settings, registry: CollectorRegistry):
    def seen(labels: int) -> dict[str, Any]:
        rng, judging = np.random.default_rng(0), JudgeSettings()
        found = evidence(arm(rng, 100, labels=labels), arm(rng, 100, labels=labels))
        return verdict_record(found, ROLLOUT, judging, judge(found, ROLLOUT, judging))

    append(settings, "verdict", seen(40))
    assert value(registry, "quality_labels", version="2", arm="candidate") == 40
    later = "2026-01-02T03:05:05+00:00"
    keep_looks(settings.looks, "mf", Looks(started_at=ROLLOUT.started_at, at=later, payloads={"2": seen(41)}))
    assert value(registry, "quality_labels", version="2", arm="candidate") == 41
    assert value(registry, "verdict_last_timestamp_seconds") == SECONDS + 60
    assert value(registry, "verdicts_total", decision="HOLD") == 1
    (settings.looks / "mf.json").write_text("{")
    assert value(registry, "verdicts_total", decision="HOLD") == 1


def test_a_bundle_that_cannot_be_read_is_told(settings: Settings, registry: CollectorRegistry):
    serve_stable(settings.rollouts, "mf", 1, by="test", now=AT)
    assert value(registry, "bundle_readable", version="1") == 0


def test_a_rollout_that_cannot_be_read_takes_no_other_models_metrics_away(
    settings: Settings, registry: CollectorRegistry
):
    serve_stable(settings.rollouts, "mf", 1, by="test", now=AT)
    (settings.rollouts / "churn.json").write_bytes(b'{"model": "ch')
    assert value(registry, "stable_version") == 1
    assert registry.get_sample_value("driftwheel_rollout_readable", {"model": "churn"}) == 0
    assert registry.get_sample_value("driftwheel_rollout_readable", {"model": "mf"}) == 1


def test_an_entry_that_is_not_understood_is_not_counted_again_and_again(settings: Settings):
    append(settings, "drift", {"of": "another release"})
    facts = Facts()
    for _ in range(2):
        with pytest.raises(KeyError):
            facts.follow(Ledger(settings.ledger))
    assert not facts.entries


def test_a_restart_counts_the_same(settings: Settings, registry: CollectorRegistry):
    append(settings, "drift", a_drift_decision())
    before = generate_latest(registry)
    assert generate_latest(registry) == before
    again = CollectorRegistry()
    again.register(WheelMetrics(settings))
    assert generate_latest(again) == before
