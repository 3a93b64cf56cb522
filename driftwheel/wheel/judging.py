"""One look of the judge at a candidate: evidence, verdict, ledger, and what follows from it."""

from dataclasses import asdict

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.errors import RolloutError
from driftwheel.rollout import Rollout, abort, advance, promote, read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.lifecycle import sync_aliases
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.judge import Verdict, judge, record
from monitoring.ledger import Ledger


def look(settings: Settings, model: str, *, act: bool = True) -> tuple[Verdict, Rollout]:
    """Judge a model's candidate on what the log holds, write the verdict down, and act on it.

    Args:
        act: False: only say what the verdict would be; nothing is written.

    Returns:
        The verdict and the rollout after it.

    Raises:
        RolloutError: There is no candidate; or somebody changed the rollout while the judge looked.
    """
    rollout = read_rollout(settings.rollouts, model)
    if rollout.candidate is None:
        raise RolloutError(
            f"model {model!r} has no candidate to judge", hint=f"driftwheel canary start {model} VERSION"
        )
    manifest = read_manifest(bundle_folder(settings.models, model, rollout.candidate))
    evidence = collect_evidence(settings.prediction_log, rollout, manifest.signature, manifest.task, until=now())
    verdict = judge(evidence, rollout, settings.judge)
    if not act:
        return verdict, rollout
    ledger = Ledger(settings.ledger)
    payload = record(evidence, rollout, settings.judge, verdict)
    number = ledger.append("verdict", model, at=now(), summary=verdict.summary, payload=payload)
    return verdict, _apply(settings, ledger, rollout, verdict, by=f"verdict {number}")


def _apply(settings: Settings, ledger: Ledger, rollout: Rollout, verdict: Verdict, *, by: str) -> Rollout:
    change = {"STEP": advance, "PROMOTE": promote, "ABORT": abort}.get(verdict.decision)
    if change is None:
        return rollout
    changed = change(settings.rollouts, rollout.model, by=by, now=now(), revision=rollout.revision)
    record_rollout(ledger, changed, by=by)
    sync_aliases(settings, changed)
    return changed


def record_rollout(ledger: Ledger, rollout: Rollout, *, by: str, reason: str = "", who: str = "") -> None:
    """Write a rollout's new state down.

    Args:
        by: The command or the verdict.
        who: The person who gave the command, and where; nobody, if a verdict did it.
    """
    trial = f", version {rollout.candidate} on trial at {rollout.weight:.2%}" if rollout.candidate else ""
    summary = f"version {rollout.stable} in service{trial} (by {', '.join(filter(None, (by, who)))})"
    summary += f": {reason}" if reason else ""
    payload = {**asdict(rollout), "reason": reason, "who": who}
    ledger.append("rollout", rollout.model, at=now(), summary=summary, payload=payload)
