"""How the release of one version stands, for whoever waits for it: an analysis of Argo Rollouts, a script."""

from dataclasses import dataclass
from typing import Any

from driftwheel.errors import NotFoundError
from driftwheel.rollout import Rollout, read_rollout
from driftwheel.settings import Settings
from monitoring.canary.judge import Decision
from monitoring.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseState:
    """What came of a release so far."""

    model: str
    version: int
    decision: Decision
    """``PROMOTE``: the version is in service, whoever said so. ``ABORT``: it no longer is, or was dropped. Else it is on trial,
    and this is the judge's newest decision about it, ``HOLD`` before the first.
    """
    summary: str
    weight: float
    """Its share of users, 0 to 1."""


def release_state(settings: Settings, model: str, version: int) -> ReleaseState:
    """How the release of a version stands.

    Raises:
        NotFoundError: The model has no rollout, or the ledger knows of none that named the version.
        RolloutError: The rollout file is damaged.
        DataError: The ledger cannot be used.
    """
    rollout, ledger = read_rollout(settings.rollouts, model), Ledger(settings.ledger)
    if version == rollout.stable:
        decision, summary, weight = "PROMOTE", f"version {version} of {model} is in service", 1.0
    elif version in rollout.on_trial:
        decision, summary = _judged(ledger, rollout.about(version))
        weight = rollout.weight
    elif any(_names(entry.payload, version) for entry in ledger.entries(model, "rollout")):
        decision, summary, weight = "ABORT", f"version {version} of {model} is neither in service nor on trial", 0.0
    else:
        raise NotFoundError(f"version {version} of model {model!r} is not in service, and was never on trial")
    return ReleaseState(model=model, version=version, decision=decision, summary=summary, weight=weight)


def _judged(ledger: Ledger, rollout: Rollout) -> tuple[Decision, str]:
    """The newest verdict about the candidate in this trial, and its sentence."""
    for entry in reversed(ledger.entries(rollout.model, "verdict")):
        about = entry.payload["rollout"]
        if (about["started_at"], about["candidate"]) == (rollout.started_at, rollout.candidate):
            return entry.payload["verdict"]["decision"], entry.summary
    return "HOLD", f"the judge has not looked at version {rollout.candidate} of {rollout.model} yet"


def _names(payload: Any, version: int) -> bool:
    """Whether a rollout had a version in service or on trial; those of older releases had no rivals."""
    return version in (payload["stable"], payload["candidate"], *payload.get("rivals", ()))
