"""A drift check by what the ledger says of the version in service."""

from pathlib import Path

import pytest

from driftwheel.rollout import serve_stable
from driftwheel.settings import DriftSettings, Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.watching import check_drift
from monitoring.drift.decision import replay
from monitoring.ledger import Ledger
from tests.monitoring.worlds import CHURN, log_rows, make_bundle, telco, write_sealed


@pytest.mark.parametrize(("made", "answered"), [(None, False), (1, False), (2, True)])
def test_what_a_retrained_version_has_met_from_its_first_rows_is_answered(tmp_path: Path, made, answered):
    """Version 2 in service, and a retrain that made no version, another one, or this one."""
    settings = Settings(home=tmp_path, drift=DriftSettings(window_rows=500))
    customers = telco().sample(frac=1, random_state=0, ignore_index=True)
    make_bundle(settings.models, "churn", "churn", CHURN, customers.head(3500), version=2)
    serve_stable(settings.rollouts, "churn", 2, by="test", now=now())
    dearer = customers.tail(2500).copy()
    dearer["in_monthly_charges"] *= 1.4
    dearer["out_probability"] *= 0.5
    write_sealed(settings.prediction_log, "churn", 2, log_rows(dearer, CHURN))
    ledger = Ledger(settings.ledger)
    ledger.append("retrain", "churn", at=now(), summary="started", payload={"event": "started"})
    ledger.append("retrain", "churn", at=now(), summary="finished", payload={"event": "finished", "version": made})
    result = check_drift(settings, "churn", html=False)
    assert result.decision.status == "drift"
    assert (result.decision.answered, result.decision.retrain) == (answered, not answered)
    (entry,) = ledger.entries("churn", "drift")
    assert replay(entry.payload) == (result.decision, result.decision)
