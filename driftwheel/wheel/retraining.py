"""A retrain: lease, data to date, the same training as ever, and the same way in as a person's version."""

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from driftwheel.errors import DriftwheelError, RolloutError
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.dry_run import TrainingPlan, plan_training
from driftwheel.wheel.lifecycle import NewVersion, current_rollout, enter, make_version
from driftwheel.wheel.parameters import champion_config
from driftwheel.wheel.progress import Reporter
from driftwheel.wheel.sources import Sources
from monitoring.ledger import Ledger
from monitoring.retrain import RetrainVerdict, Trigger, lease, may_retrain, may_start
from monitoring.segments import moment

if TYPE_CHECKING:
    from monitoring.drift.decision import DriftDecision


_ENTRIES = {
    "on trial": "entered on trial",
    "refused": "refused by the gate",
    "in service": "entered service",
    "archived": "stays archived",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainOutcome:
    """What came of a retrain. ``made`` is None where the data to date is what the version in service was trained on."""

    outcome: str
    result: str
    """One of a few words that metrics count by: on trial, refused, in service, archived, nothing new, failed."""
    made: NewVersion | None = None


def permission(settings: Settings, model: str, decision: "DriftDecision") -> RetrainVerdict:
    """Whether a drift decision may start a retrain of a model now."""
    history = Ledger(settings.ledger).entries(model, "retrain")
    rollout = current_rollout(settings, model)
    in_flight = rollout is not None and rollout.candidate is not None
    return may_retrain(history, now=now(), settings=settings.retrain, decision=decision, candidate_in_flight=in_flight)


def permission_without_drift(settings: Settings, model: str, reason: str) -> RetrainVerdict:
    """Whether an alert or a schedule may start a retrain of a model now: as a drift decision may, and never after one on
    broken data.
    """
    ledger = Ledger(settings.ledger)
    for newest in ledger.latest(model, "drift"):
        if newest.payload["decision"]["schema_broken"]:
            return RetrainVerdict(allowed=False, reason=f"blocked by {newest.summary}")
    rollout = current_rollout(settings, model)
    in_flight = rollout is not None and rollout.candidate is not None
    history = ledger.entries(model, "retrain")
    return may_start(history, now=now(), settings=settings.retrain, reason=reason, candidate_in_flight=in_flight)


def retrain(
    settings: Settings,
    sources: Sources,
    model: str,
    reporter: Reporter,
    *,
    reason: str,
    trigger: Trigger = "by hand",
    until: str | None,
    steps: tuple[float, ...] | None = None,
    estimator: str | None = None,
) -> RetrainOutcome:
    """Train on the source until its cut and on everything that the log has labels for; a version that passes the gate
    enters as a candidate.

    Args:
        reason: Why, for people.
        trigger: What set it off, for metrics.
        estimator: What learns; what made the champion, with its parameters, unless given.

    Raises:
        BusyError: Another retrain of the model is going on.
        RolloutError: A candidate is on trial already.
        DriftwheelError: Data, training or export failed; the ledger says so, and the version in service goes on.
    """
    rollout = current_rollout(settings, model)
    if rollout is not None and rollout.candidate is not None:
        raise RolloutError(
            f"version {rollout.candidate} of {model!r} is on trial already",
            hint=f"driftwheel canary watch {model}, or driftwheel canary abort {model}",
        )
    with lease(settings.runtime / f"retrain-{model}.lock"):
        started = now()
        # Written first, so that one that is killed again and again counts against the daily cap.
        record_start(settings, model, started, reason, trigger)
        before_s = _processor_s()
        try:
            result = _retrain(settings, sources, model, reporter, until=until, steps=steps, estimator=estimator)
        except DriftwheelError as error:
            failed = RetrainOutcome(outcome=f"failed: {error.message}", result="failed")
            record_end(settings, model, started, reason, trigger, failed, processor_s=_processor_s() - before_s)
            raise
        record_end(settings, model, started, reason, trigger, result, processor_s=_processor_s() - before_s)
    return result


def _processor_s() -> float:
    """Seconds of processor time that this process has taken so far, with all that it started and waited for: the ranks."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def plan_retrain(
    settings: Settings,
    sources: Sources,
    model: str,
    reporter: Reporter,
    *,
    until: str | None,
    estimator: str | None = None,
) -> TrainingPlan:
    """What ``retrain`` would do with the same arguments."""
    dataset = sources.prepare(sources.task_of(model), settings, until=until, learn=True)
    base = champion_config(settings, model, reporter) if estimator is None else None
    return plan_training(settings, model, dataset, reporter, estimator=estimator, base=base, enters=True)


def _retrain(
    settings: Settings,
    sources: Sources,
    model: str,
    reporter: Reporter,
    *,
    until: str | None,
    steps: tuple[float, ...] | None,
    estimator: str | None,
) -> RetrainOutcome:
    with reporter.task(f"Preparing {model} data to date") as task:
        dataset = sources.prepare(sources.task_of(model), settings, until=until, learn=True)
        task.finish(f"{sum(dataset.rows.values()):,} rows, fingerprint {dataset.fingerprint[:12]}")
    base = champion_config(settings, model, reporter) if estimator is None else None
    made = make_version(settings, model, dataset, reporter, estimator=estimator, base=base)
    entry, _ = enter(settings, made, by="retrain", steps=steps)
    if entry == "known":
        return RetrainOutcome(outcome=f"nothing new to learn since version {made.version}", result="nothing new")
    return RetrainOutcome(outcome=f"made version {made.version}: {_ENTRIES[entry]}", result=entry, made=made)


def record_start(settings: Settings, model: str, started: str, reason: str, trigger: Trigger) -> None:
    """Open a retrain in the ledger.

    Args:
        started: When, ISO 8601.
    """
    opened = {"event": "started", "reason": reason, "trigger": trigger}
    Ledger(settings.ledger).append("retrain", model, at=started, summary=f"started ({reason})", payload=opened)


def record_end(
    settings: Settings,
    model: str,
    started: str,
    reason: str,
    trigger: Trigger,
    result: RetrainOutcome,
    *,
    processor_s: float | None = None,
) -> None:
    """Write down what came of a retrain that was opened with ``record_start``, now, and what it cost.

    Args:
        processor_s: Seconds of processor time, of all ranks of this host; None where nobody could count them.
    """
    ended = now()
    seconds = (moment(ended) - moment(started)).total_seconds()
    payload = {
        "event": "finished",
        "started_at": started,
        "cost": {"seconds": seconds, "processor_s": processor_s},
        "reason": reason,
        "trigger": trigger,
        "outcome": result.outcome,
        "result": result.result,
        "version": result.made.version if result.made else None,
        "metrics": result.made.metrics if result.made else None,
        "champion_metrics": result.made.champion_metrics if result.made else None,
        "verdict": asdict(result.made.verdict) if result.made else None,
    }
    summary = f"{result.outcome} ({reason}); took {seconds:,.0f} s"
    Ledger(settings.ledger).append("retrain", model, at=ended, summary=summary, payload=payload)
