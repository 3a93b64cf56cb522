"""A trial's verdicts out of the ledger, and plans by file."""

import dataclasses

import numpy as np
import pytest

from driftwheel.errors import ConfigurationError, NotFoundError
from driftwheel.settings import load_settings
from driftwheel.wheel.explaining import draw, explain, history, strengths
from driftwheel.wheel.release_plan import Plan, read_plan
from monitoring.canary.judge import judge, record
from monitoring.ledger import Ledger
from tests.monitoring.canary.arms import ROLLOUT, arm, evidence


def write_trial(settings, rollout, *, errors):
    """Three looks at a candidate; the numbers of their entries."""
    rng = np.random.default_rng(0)
    ledger, numbers = Ledger(settings.ledger), []
    for requests in (100, 1000, 4000):
        seen = evidence(arm(rng, requests), arm(rng, requests, errors=errors), rollout)
        verdict = judge(seen, rollout, settings.judge)
        payload = record(seen, rollout, settings.judge, verdict)
        numbers.append(ledger.append("verdict", "movies", at="t", summary=verdict.summary, payload=payload))
    return numbers


def test_a_verdict_is_explained_by_its_trial_and_judged_again(tmp_path):
    settings = load_settings(home=tmp_path)
    write_trial(settings, ROLLOUT, errors=0.0)
    later = dataclasses.replace(ROLLOUT, started_at="2026-02-01T00:00:00Z")
    numbers = write_trial(settings, later, errors=0.05)
    (looks,) = explain(settings, "movies")
    assert [look.number for look in looks] == numbers
    assert [look.requests for look in looks] == [100, 1000, 4000]
    assert [look.verdict.decision for look in looks] == ["HOLD", "ABORT", "ABORT"]
    assert all(look.again == look.verdict for look in looks)
    assert strengths(looks[-1].verdict)["errors"] > 1 > strengths(looks[-1].verdict)["latency"]
    assert [look.number for look in explain(settings, "movies", numbers[1])[0]] == numbers[:2]
    with pytest.raises(NotFoundError, match="no verdict 99"):
        explain(settings, "movies", 99)
    assert [entry.id for entry in history(settings, "movies", limit=4)] == [3, *numbers]
    draw(tmp_path / "trial.png", "movies", [looks])
    assert (tmp_path / "trial.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_is_read_and_a_wrong_one_named(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text("steps = [0, 0.1, 1]\nshadow = 0.2\n")
    assert read_plan(path) == Plan(steps=(0.0, 0.1, 1.0), shadow=0.2)
    for text, message in (("step = [1]", "step"), ("steps = 3", "steps"), ("steps = [", "no plan")):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            read_plan(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")
