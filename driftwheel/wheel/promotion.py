"""Moving versions by name: promote behind a gate, archive, restore, roll back. The rollout file says what serves, and MLflow's
aliases follow it; the ledger says who moved what, and why.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from driftwheel import rollout as rollouts
from driftwheel.bundle import Bundle, list_versions, read_bundle
from driftwheel.errors import NotFoundError, RolloutError
from driftwheel.rollout import DEFAULT_STEPS, Rollout, read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.archive import archived_versions, mark_archived, refuse_archived, whoami
from driftwheel.wheel.clock import now
from driftwheel.wheel.judging import record_rollout
from driftwheel.wheel.lifecycle import check_compatible, current_rollout, gate_bounds, sync_aliases
from driftwheel.wheel.progress import Reporter
from monitoring.ledger import Entry, Ledger

if TYPE_CHECKING:
    from training.gate import GateVerdict

Role = Literal["champion", "challenger"]

ROLLBACK = "models rollback"
_PROMOTE = "models promote"


def promote(
    settings: Settings,
    model: str,
    version: int,
    *,
    role: Role,
    reason: str,
    reporter: Reporter,
    steps: tuple[float, ...] = DEFAULT_STEPS,
    force: bool = False,
) -> Rollout:
    """Put a version in service, or on trial beside the one that is.

    Args:
        force: Without asking the gate. What is archived, damaged or (on trial) of another signature is refused all the same.

    Raises:
        RolloutError: The gate refuses it, it is archived, it cannot answer the requests that the champion gets, or somebody
            else moved the rollout meanwhile.
        NotFoundError: It has no bundle.
        BundleError: Its bundle is damaged.
    """
    refuse_archived(settings, model, version)
    found = current_rollout(settings, model)
    if version not in list_versions(settings.models, model):
        raise NotFoundError(
            f"version {version} of {model} has no bundle",
            hint=f"driftwheel export {model} {version} makes one of a registered version, a refused one too",
        )
    bundle = read_bundle(settings.models, model, version)
    if not force:
        check_compatible(settings, bundle)
        _pass_gate(settings, bundle, reporter)
    if role == "challenger":
        check_compatible(settings, bundle)
        changed = rollouts.start_candidate(settings.rollouts, model, version, steps=steps, by=_PROMOTE, now=now())
    else:
        revision = found.revision if found else 0
        changed = rollouts.serve_stable(settings.rollouts, model, version, by=_PROMOTE, now=now(), revision=revision)
    return _recorded(settings, changed, reason=f"{reason} (the gate was not asked)" if force else reason)


def roll_back(settings: Settings, model: str, *, reason: str) -> Rollout:
    """Put the champion before this one back in service; a trial that goes on ends. Archived versions are passed over.

    Raises:
        RolloutError: There was none before that could serve, or somebody else moved the rollout meanwhile.
        NotFoundError: The model has no rollout.
        BundleError: The bundle to go back to is damaged.
    """
    found = read_rollout(settings.rollouts, model)
    stable = found.stable
    archived = archived_versions(settings, model)
    earlier = champions_before(Ledger(settings.ledger).entries(model, "rollout"), stable)
    before = next((version for version in reversed(earlier) if version not in archived), None)
    if before is None:
        raise RolloutError(
            f"model {model!r} had no champion before version {stable} that is not archived",
            hint=f"driftwheel models promote {model} VERSION puts any version in service",
        )
    read_bundle(settings.models, model, before)
    changed = rollouts.serve_stable(settings.rollouts, model, before, by=ROLLBACK, now=now(), revision=found.revision)
    return _recorded(settings, changed, reason=reason)


def champions_before(entries: list[Entry], stable: int) -> list[int]:
    """The versions that were in service before ``stable``, the first one first. What a rollback left behind is none of
    them, so that rolling back twice goes back twice.
    """
    stack: list[int] = []
    for entry in entries:
        version = int(entry.payload["stable"])
        if entry.payload["updated_by"] == ROLLBACK and version in stack:
            while stack[-1] != version:
                stack.pop()
        elif not stack or stack[-1] != version:
            stack.append(version)
    return stack[:-1] if stack and stack[-1] == stable else stack


def set_archived(settings: Settings, model: str, version: int, *, archived: bool, reason: str) -> None:
    """Put a version away, so that nothing releases it, or take it back.

    Raises:
        RolloutError: It is in service or on trial.
        NotFoundError: There is neither a bundle nor a registered version of that number.
    """
    rollout = current_rollout(settings, model)
    if archived and rollout is not None and version in rollout.versions:
        state = "in service" if version == rollout.stable else "on trial"
        raise RolloutError(
            f"version {version} of {model!r} is {state} and cannot be archived",
            hint=f"driftwheel models rollback {model}" if state == "in service" else f"driftwheel canary abort {model}",
        )
    _require(settings, model, version)
    if (version in archived_versions(settings, model)) == archived:
        return
    who, did = whoami(), "archived" if archived else "restored"
    payload = {"version": version, "archived": archived, "who": who, "reason": reason}
    summary = f"version {version} {did} by {who}" + (f": {reason}" if reason else "")
    Ledger(settings.ledger).append("archive", model, at=now(), summary=summary, payload=payload)
    mark_archived(settings, model, version, reason if archived else None)


def _require(settings: Settings, model: str, version: int) -> None:
    from training.mlflow_store import is_empty

    if version in list_versions(settings.models, model):
        return
    if is_empty(settings):
        raise NotFoundError(f"{model} has no version {version}", hint=f"driftwheel models list {model}")
    from training.registry import Registry

    Registry(settings).info(model, version)


def _pass_gate(settings: Settings, bundle: Bundle, reporter: Reporter) -> None:
    """Judge a version against the champion of today, on rows that neither has learned from; where MLflow does not have
    what that takes, the verdict that the ledger has counts.

    Raises:
        RolloutError: It does not pass, or nothing has judged it.
    """
    verdict = _verdict_now(settings, bundle, reporter) or _recorded_verdict(settings, bundle)
    if verdict is None:
        raise RolloutError(
            f"no gate has judged version {bundle.version} of {bundle.name!r}, and there is no record to judge it by",
            hint="--force releases it without",
        )
    passed, reasons = verdict
    if not passed:
        raise RolloutError(
            f"the gate refuses version {bundle.version} of {bundle.name!r}: {'; '.join(reasons)}",
            hint="--force releases it all the same",
        )


def _verdict_now(settings: Settings, bundle: Bundle, reporter: Reporter) -> tuple[bool, tuple[str, ...]] | None:
    from driftwheel.wheel.comparing import metrics_side_by_side
    from training.evaluation import is_for_ranking
    from training.gate import decide

    rollout = current_rollout(settings, bundle.name)
    if rollout is None or rollout.stable == bundle.version:
        return None
    both = metrics_side_by_side(settings, bundle.name, rollout.stable, bundle.version)
    if both is None:
        return None
    champion, candidate = both
    bounds, ranks = gate_bounds(bundle.manifest.signature), is_for_ranking(bundle)
    verdict: GateVerdict = decide(bundle.manifest.task, candidate, champion, bounds, ranks=ranks)
    summary = (
        f"version {bundle.version} {'passed' if verdict.passed else 'refused'} beside version {rollout.stable}: "
        f"{'; '.join(verdict.reasons)}"
    )
    payload = {"version": bundle.version, "metrics": candidate, "champion": champion, "verdict": asdict(verdict)}
    Ledger(settings.ledger).append("gate", bundle.name, at=now(), summary=summary, payload=payload)
    reporter.note(f"gate: {summary}")
    return verdict.passed, verdict.reasons


def _recorded_verdict(settings: Settings, bundle: Bundle) -> tuple[bool, tuple[str, ...]] | None:
    entries = Ledger(settings.ledger).entries(bundle.name, "gate")
    verdicts = [entry.payload["verdict"] for entry in entries if entry.payload["version"] == bundle.version]
    return (verdicts[-1]["passed"], tuple(verdicts[-1]["reasons"])) if verdicts else None


def _recorded(settings: Settings, rollout: Rollout, *, reason: str) -> Rollout:
    record_rollout(Ledger(settings.ledger), rollout, by=rollout.updated_by, reason=reason, who=whoami())
    sync_aliases(settings, rollout)
    return rollout
