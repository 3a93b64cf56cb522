"""One look of the judge at a candidate: evidence, verdict, ledger, and what follows from it."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

from driftwheel.bundle import Bundle, bundle_folder, read_manifest
from driftwheel.errors import RolloutError
from driftwheel.refusals import read_refusal
from driftwheel.rollout import Rollout, abort, advance, promote, read_rollout
from driftwheel.settings import JudgeSettings, Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.lifecycle import sync_aliases
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import Evidence
from monitoring.canary.judge import Verdict, judge, record
from monitoring.canary.looks import keep_looks, looks_of, written_down
from monitoring.canary.several import Judged, decide, settings_for
from monitoring.canary.unknown import Vocabularies
from monitoring.ledger import Ledger


def look(settings: Settings, model: str, *, act: bool = True) -> tuple[Verdict, Rollout]:
    """Judge a model's candidate on what the log holds, write the verdict down where it does or says something new, and act on
    it. Of several candidates each gets a verdict of its own in the ledger, and what is returned is the trial's.

    Args:
        act: False: only say what the verdict would be; nothing is written.

    Returns:
        The verdict and the rollout after it.

    Raises:
        RolloutError: There is no candidate; or somebody changed the rollout while the judge looked.
        DataError: What the judge kept of its last look is damaged.
    """
    rollout = read_rollout(settings.rollouts, model)
    if rollout.candidate is None:
        raise RolloutError(
            f"model {model!r} has no candidate to judge", hint=f"driftwheel canary start {model} VERSION"
        )
    shared, judged = settings_for(rollout, settings.judge), list[Judged]()
    for version in rollout.on_trial:
        own = rollout.about(version)
        evidence = _evidence(settings, own, version)
        judged.append(Judged(version=version, evidence=evidence, verdict=judge(evidence, own, shared)))
    verdict, dropped = decide(judged, rollout, settings.judge)
    if not act:
        return verdict, rollout
    ledger = Ledger(settings.ledger)
    number = _write_down(settings, ledger, rollout, judged, shared, acts=bool(dropped) or verdict.decision != "HOLD")
    return verdict, _apply(settings, ledger, rollout, verdict, dropped, by=f"verdict {number}")


def _write_down(
    settings: Settings,
    ledger: Ledger,
    rollout: Rollout,
    judged: Sequence[Judged],
    shared: JudgeSettings,
    *,
    acts: bool,
) -> int:
    """Verdicts that act, and those with news; of the others the newest is kept beside the ledger. Returns the newest entry."""
    looks, number = looks_of(settings.looks, rollout), 0
    payloads = {
        str(one.version): record(one.evidence, rollout.about(one.version), shared, one.verdict) for one in judged
    }
    written, at = dict(looks.written), now()
    for one in reversed(judged):  # the newest verdict is about the candidate that is named first
        if acts or looks.is_news(one, rollout, at):
            payload = payloads[str(one.version)]
            number = ledger.append("verdict", rollout.model, at=at, summary=one.verdict.summary, payload=payload)
            written |= written_down(one, rollout, at)
    keep_looks(settings.looks, rollout.model, replace(looks, at=at, payloads=payloads, written=written))
    return number


def _evidence(settings: Settings, rollout: Rollout, candidate: int) -> Evidence:
    """What the log holds about one version on trial, and what servers said."""
    stable, tried = (bundle_folder(settings.models, rollout.model, version) for version in (rollout.stable, candidate))
    manifest, refused = read_manifest(tried), read_refusal(settings.refusals, rollout)
    # What could not be loaded may have vocabularies that cannot be read either.
    known = None if refused else (_vocabularies(stable), _vocabularies(tried))
    evidence = collect_evidence(
        settings.prediction_log, rollout, manifest.signature, manifest.task, until=now(), vocabularies=known
    )
    return replace(evidence, refused=refused or "")


@lru_cache(maxsize=8)
def _vocabularies(folder: Path) -> Vocabularies:
    """A bundle never changes, and the judge looks again every few seconds."""
    return Bundle(folder, read_manifest(folder)).vocabularies()


def _apply(
    settings: Settings, ledger: Ledger, rollout: Rollout, verdict: Verdict, dropped: tuple[int, ...], *, by: str
) -> Rollout:
    changes = {"STEP": advance, "PROMOTE": promote, "ABORT": abort}
    change = partial(abort, versions=dropped) if dropped else changes.get(verdict.decision)
    if change is None:
        return rollout
    changed = change(settings.rollouts, rollout.model, by=by, now=now(), revision=rollout.revision)
    record_rollout(ledger, changed, by=by, reason="; ".join(verdict.reasons) if dropped else "")
    sync_aliases(settings, changed)
    return changed


def record_rollout(ledger: Ledger, rollout: Rollout, *, by: str, reason: str = "", who: str = "") -> None:
    """Write a rollout's new state down.

    Args:
        by: The command or the verdict.
        who: The person who gave the command, and where; nobody, if a verdict did it.
    """
    several = " and ".join(map(str, rollout.on_trial))
    trial = f", version {several} on trial at {rollout.weight:.2%}" if several else ""
    summary = f"version {rollout.stable} in service{trial} (by {', '.join(filter(None, (by, who)))})"
    summary += f": {reason}" if reason else ""
    payload = {**asdict(rollout), "reason": reason, "who": who}
    ledger.append("rollout", rollout.model, at=now(), summary=summary, payload=payload)
