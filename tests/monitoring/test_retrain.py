import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import BusyError
from driftwheel.settings import RetrainSettings
from monitoring.drift.decision import DriftDecision
from monitoring.ledger import Entry
from monitoring.retrain import lease, may_retrain

SETTINGS = RetrainSettings()
WANTED = DriftDecision(status="drift", summary="quality is down", quality_down=True, retrain=True)
NOW = "2026-01-02T12:00:00+00:00"

HOLDER = """
import sys, time
from pathlib import Path
from monitoring.retrain import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def entry(at, kind="retrain", id=1, **payload):  # noqa: A002
    return Entry(id=id, at=at, kind=kind, model="m", summary="s", payload=payload)


def ask(history=(), decision=WANTED, *, in_flight=False, settings=SETTINGS):
    return may_retrain(history, now=NOW, settings=settings, decision=decision, candidate_in_flight=in_flight)


def test_a_wanted_retrain_may_start():
    assert ask().allowed
    assert ask().reason == "quality is down"


@pytest.mark.parametrize(
    ("history", "allowed", "reason"),
    [
        ([entry("2026-01-02T11:30:00Z")], False, "cool-down: 1800 s of 3600 s left"),
        ([entry("2026-01-02T11:30:00Z", event="finished")], True, "quality"),
        ([entry("2026-01-02T11:30:00Z", kind="drift")], True, "quality"),
        ([entry("2026-01-02T10:59:00Z")], True, "quality"),
        ([entry(f"2026-01-02T0{h}:00:00Z") for h in range(4)], False, "daily cap: 4 of 4"),
        ([entry(f"2026-01-01T0{h}:00:00Z") for h in range(9)], True, "quality"),
    ],
)
def test_history(history, allowed, reason):
    verdict = ask(history)
    assert verdict.allowed == allowed
    assert verdict.reason.startswith(reason)


def test_what_retrains_took_within_a_month_is_held_against_the_budget():
    """Two hours in January, and one that began before December: of what was killed nobody knows what it took."""
    history = [
        entry("2025-12-01T02:00:00Z", event="finished", started_at="2025-12-01T00:00:00Z"),
        entry("2025-12-31T00:00:00Z", event="started"),
        entry("2026-01-01T02:00:00Z", event="started"),
        entry("2026-01-01T04:00:00Z", event="finished", started_at="2026-01-01T02:00:00Z"),
        entry("2026-01-01T04:00:00Z", kind="drift", started_at="2026-01-01T00:00:00Z"),
    ]
    assert ask(history).allowed
    assert ask(history, settings=RetrainSettings(budget_hours=2.5)).allowed
    refused = ask(history, settings=RetrainSettings(budget_hours=2))
    assert (refused.allowed, refused.reason) == (False, "budget: 2.0 of 2 hours in 30 days")


def events(*names, hour="11"):
    """Entries in the order of the ledger, a minute apart."""
    return [entry(f"2026-01-02T{hour}:{30 + i}:00Z", id=i + 1, event=name) for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("names", "allowed", "reason"),
    [
        (["started", "finished"], False, "cool-down"),
        (["started"], True, "takes up an interrupted retrain: quality"),
        (["started", "finished", "started"], True, "takes up an interrupted retrain: quality"),
        (["started", "started", "finished"], False, "cool-down"),
        (["started", "started"], True, "takes up"),
        (["started"] * 4, False, "daily cap: 4 of 4"),
        (["started", "finished"] * 4, False, "daily cap: 4 of 4"),
    ],
)
def test_an_interrupted_retrain_is_taken_up_at_once_within_the_cap(names, allowed, reason):
    for history in (events(*names), events(*names)[::-1]):
        verdict = ask(history)
        assert verdict.allowed == allowed
        assert verdict.reason.startswith(reason)


def test_an_interrupted_retrain_passes_by_nothing_but_the_cool_down():
    assert ask(events("started"), in_flight=True).reason == "a candidate is on trial already"
    assert not ask(events("started"), DriftDecision(status="stable", summary="stable")).allowed
    assert not ask([*events("started"), entry("2026-01-02T11:40:00Z", id=9)]).allowed  # an older release's, whole


@given(st.lists(st.sampled_from(["started", "finished"]), max_size=12))
def test_no_order_of_events_beats_the_cap(names):
    if ask(events(*names)).allowed:
        assert names.count("started") < SETTINGS.daily_cap


def test_what_blocks():
    broken = DriftDecision(status="broken data", summary="s", schema_broken=True, retrain=False, faults=("x is gone",))
    assert ask(decision=broken).reason == "blocked by broken data: x is gone"
    assert ask(decision=DriftDecision(status="stable", summary="stable")).reason == "not needed: stable"
    assert ask(in_flight=True).reason == "a candidate is on trial already"
    assert not ask(settings=RetrainSettings(daily_cap=0)).allowed


@given(st.lists(st.integers(0, 3 * 86_400), max_size=12))
def test_never_more_than_the_cap_and_never_within_the_cool_down(ages):
    from datetime import datetime, timedelta

    now = datetime.fromisoformat(NOW)
    history = [entry((now - timedelta(seconds=age)).isoformat()) for age in ages]
    if ask(history).allowed:
        assert sum(age < 86_400 for age in ages) < SETTINGS.daily_cap
        assert all(age >= SETTINGS.cool_down_s for age in ages)


def test_one_lease_at_a_time_and_a_killed_holder_lets_go(tmp_path):
    path = tmp_path / "run" / "retrain.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(BusyError, match=str(process.pid)), lease(path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with lease(path):
        pass
