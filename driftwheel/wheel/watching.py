"""One drift job for a model in service, written down."""

from typing import TYPE_CHECKING

from driftwheel.bundle import read_bundle
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from monitoring.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.drift.job import DriftResult


def check_drift(
    settings: Settings, model: str, *, since: str | None = None, window: "pd.DataFrame | None" = None, html: bool = True
) -> "DriftResult":
    """Compare what the version in service was asked lately with what it was shipped with.

    Args:
        window: A table of the user's own instead of the log; it is judged but not written down.

    Raises:
        NotFoundError: The model has no version in service.
    """
    from monitoring.drift.decision import record
    from monitoring.drift.job import run_drift

    rollout = read_rollout(settings.rollouts, model)
    bundle = read_bundle(settings.models, model, rollout.stable)
    at, ledger = now(), Ledger(settings.ledger)
    result = run_drift(
        log=settings.prediction_log,
        bundle=bundle,
        reports=settings.reports / model,
        settings=settings.drift,
        since=since,
        now=at,
        window=window,
        html=html,
        retrained=_made_by_retrain(ledger, model, bundle.version),
    )
    if window is None:
        payload = record(
            result.windows,
            settings.drift,
            result.decision,
            version=bundle.version,
            recommended=result.recommended,
        )
        ledger.append("drift", model, at=at, summary=result.decision.summary, payload=payload)
    return result


def _made_by_retrain(ledger: Ledger, model: str, version: int) -> bool:
    return any(entry.payload.get("version") == version for entry in ledger.entries(model, "retrain"))
