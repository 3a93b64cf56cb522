"""One drift job for a model in service, written down."""

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from driftwheel.bundle import Bundle, read_bundle
from driftwheel.errors import TrainingError
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from monitoring.ledger import Ledger
from monitoring.segments import moment

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.drift.job import DriftResult

_log = structlog.get_logger()


def check_drift(
    settings: Settings, model: str, *, since: str | None = None, window: "pd.DataFrame | None" = None, html: bool = True
) -> "DriftResult":
    """Compare what the version in service was asked lately with what it was shipped with. The decision goes into the ledger,
    a report also to MLflow, to the run that the version came from.

    Args:
        window: A table of the user's own instead of the log; it is judged but not written down.
        html: Write the Evidently report.

    Raises:
        NotFoundError: The model has no version in service.
    """
    from monitoring.drift.decision import NOTHING_BEFORE, Before, record
    from monitoring.drift.job import run_drift

    rollout = read_rollout(settings.rollouts, model)
    bundle = read_bundle(settings.models, model, rollout.stable)
    at, ledger = now(), Ledger(settings.ledger)
    earlier = ledger.latest(model, "drift") if window is None else []
    before = Before.of(earlier[0].payload, version=bundle.version) if earlier else NOTHING_BEFORE
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
        before=before,
    )
    if window is None:
        payload = record(
            result.windows,
            settings.drift,
            result.decision,
            version=bundle.version,
            recommended=result.recommended,
            before=before,
        )
        ledger.append("drift", model, at=at, summary=result.decision.summary, payload=payload)
        result = _on_record(settings, bundle, result, at)
    return result


def _on_record(settings: Settings, bundle: Bundle, result: "DriftResult", at: str) -> "DriftResult":
    """The result with the MLflow run that has its reports. The decision stands whether or not MLflow can be reached."""
    files = [path for path in (result.report_html, result.report_json) if path is not None]
    if not files or find_spec("mlflow") is None:
        return result
    from training.drift_record import record_drift

    run_id, decision = bundle.manifest.training.run_id, result.decision
    metrics = {f"{one.monitor}/statistic": one.statistic for one in decision.outcomes}
    metrics |= {f"{one.monitor}/p_value": one.p_value for one in decision.outcomes}
    metrics |= {"drifted_monitors": float(sum(one.drifted for one in decision.outcomes))}
    try:
        record_drift(settings, run_id, files, metrics, at_s=moment(at).timestamp())
    except TrainingError as error:
        _log.warning("drift.report_not_on_record", model=bundle.name, version=bundle.version, reason=error.message)
        return result
    return replace(result, run_id=run_id)


def _made_by_retrain(ledger: Ledger, model: str, version: int) -> bool:
    return any(entry.payload.get("version") == version for entry in ledger.entries(model, "retrain"))
