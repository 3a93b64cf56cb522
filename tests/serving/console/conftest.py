"""A home that has seen something: a candidate on trial, verdicts, drift decisions with a real report, retrains."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftwheel.rollout import Rollout, abort, advance, start_candidate
from driftwheel.settings import DriftSettings, JudgeSettings, Settings
from monitoring.canary import judge as judging
from monitoring.drift.decision import decide_drift, record
from monitoring.drift.job import run_drift
from monitoring.drift.scores import MonitorScore, QualityScore, Recommended, WindowScores
from monitoring.ledger import Ledger
from serving.front_door import running
from tests.bundles import make_churn_bundle
from tests.monitoring.canary.arms import arm, evidence
from tests.monitoring.worlds import CHURN, make_bundle, telco
from tests.serving.conftest import BY, Live, connected, prepared_home

HOSTILE = "<img src=x onerror=document.title='hurt'>"
"""A name as data may have it."""

NOW = "2026-01-02T03:04:05.000006+00:00"


def window(moved: float) -> WindowScores:
    """A window whose first monitor lies ``moved`` away from the reference."""
    p_value = 1e-9 if moved > 0.1 else 0.5
    scores = tuple(
        MonitorScore(
            monitor=name,
            column="tenure",
            group=group,
            kind="number",
            statistic=moved * size,
            p_value=p_value if size == 1 else 0.4,
            why=f"mean of {name}",
        )
        for name, group, size in ((f"tenure {HOSTILE}", "input", 1.0), ("prediction score", "prediction", 0.2))
    )
    quality = QualityScore(
        outcome="fine",
        loss="squared error",
        labelled=500,
        clusters=50,
        reference_mean=1.0,
        window_mean=1.0 + moved,
        at_least=0.0,
        margin=0.05,
    )
    return WindowScores(start=NOW, end=NOW, rows=2000, scores=scores, quality=quality)


def add_drift(ledger: Ledger, day: int, moved: float) -> None:
    """A decision about the rating model."""
    windows, settings = (window(moved),) * 3, DriftSettings()
    decision = decide_drift(windows, settings)
    lists = Recommended(lists=420, empty_lists=day, items=8400, coverage=0.25, top_share=0.5, asked_top_share=0.375)
    payload = record(windows, settings, decision, version=1, recommended=lists)
    ledger.append("drift", "mf", at=f"2026-01-{day:02d}T03:00:00+00:00", summary=decision.summary, payload=payload)


def add_verdict(ledger: Ledger, rollout: Rollout, minute: int, requests: int, **candidate: Any) -> None:
    """A look at the candidate, as the judge writes it down; ``candidate``: how it differs from control."""
    rng, settings = np.random.default_rng(minute), JudgeSettings()
    seen = evidence(arm(rng, requests), arm(rng, requests, **candidate), rollout)
    seen = replace(seen, candidate_version=rollout.candidate)
    verdict = judging.judge(seen, rollout, settings)
    payload = judging.record(seen, rollout, settings, verdict)
    at = f"2026-01-09T00:{minute:02d}:00+00:00"
    ledger.append("verdict", rollout.model, at=at, summary=verdict.summary, payload=payload)


def add_retrain(ledger: Ledger, day: int, result: str | None) -> None:
    """A retrain of so many minutes as its day has; None: it was killed."""
    started = f"2026-01-{day:02d}T05:00:00+00:00"
    opened = {"event": "started", "reason": "drift", "trigger": "drift"}
    ledger.append("retrain", "mf", at=started, summary="started (drift)", payload=opened)
    if result is not None:
        ended = {**opened, "event": "finished", "started_at": started, "result": result, "version": day}
        at = f"2026-01-{day:02d}T05:{day:02d}:00+00:00"
        ledger.append("retrain", "mf", at=at, summary=f"made version {day}: {result}", payload=ended)


def with_history(settings: Settings) -> Settings:
    """Let things have happened in a prepared home."""
    start_candidate(settings.rollouts, "mf", 2, steps=(0.05, 0.25, 0.5, 1.0), **BY)
    rollout = advance(settings.rollouts, "mf", **BY)
    ledger = Ledger(settings.ledger)
    for day, moved in enumerate((0.02, 0.05, 0.01, 0.3, 0.4, 0.03), start=1):
        add_drift(ledger, day, moved)
    for minute, requests in enumerate((50, 120, 900), start=1):
        add_verdict(ledger, rollout, minute, requests)
    for day, result in ((3, "refused"), (4, None), (5, "on trial")):
        add_retrain(ledger, day, result)
    ledger.append("rollout", "mf", at=NOW, summary="version 2 on trial (by retrain)", payload={})
    ledger.append("gate", "mf", at=NOW, summary="version 2 passed: rmse 0.9 is no worse", payload={})
    return settings


def with_report(settings: Settings, folder: Path) -> None:
    """A drift job of real customers, whose page Evidently makes."""
    table = telco()
    bundle = make_bundle(folder, "churn", "churn", CHURN, table.head(3000))
    drift = DriftSettings()
    made = run_drift(
        log=folder, bundle=bundle, reports=settings.reports / "churn", settings=drift, now=NOW, window=table.tail(4000)
    )
    payload = record(made.windows, drift, made.decision, version=1)
    Ledger(settings.ledger).append("drift", "churn", at=NOW, summary=made.decision.summary, payload=payload)


def with_several(settings: Settings) -> None:
    """Three versions of the churn model on trial at once, of which version 3 failed and was dropped."""
    for version in (2, 3, 4):
        make_churn_bundle(settings.models, version)
    rollout = start_candidate(settings.rollouts, "churn", 2, rivals=(3, 4), steps=(0.2, 1.0), **BY)
    ledger = Ledger(settings.ledger)
    add_verdict(ledger, rollout.about(3), 1, 900, errors=0.3)
    abort(settings.rollouts, "churn", versions=[3], **BY)
    for minute in (2, 3):
        for version in (4, 2):
            add_verdict(ledger, rollout.about(version), minute, 300 * minute)


@pytest.fixture(scope="session")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server over such a home; for tests that change nothing."""
    settings = with_history(prepared_home(tmp_path_factory.mktemp("eventful")))
    with_report(settings, tmp_path_factory.mktemp("reported"))
    with_several(settings)
    with running(settings) as (door, address), connected(settings, door, address) as server:
        yield server
