"""The judge: recorded evidence in, a verdict out. The same evidence always gets the same verdict."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from driftwheel.rollout import Rollout
from driftwheel.settings import JudgeSettings
from monitoring.canary.check import Check, named
from monitoring.canary.checks import soft_checks
from monitoring.canary.evidence import Evidence
from monitoring.canary.guards import guards
from monitoring.segments import moment

Decision = Literal["HOLD", "STEP", "PROMOTE", "ABORT"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do with a candidate, why, and the table behind it."""

    decision: Decision
    summary: str
    """One sentence."""
    reasons: tuple[str, ...]
    """What the decision rests on, most important first; never empty."""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRecord:
    """Everything that a verdict followed from: what the ledger keeps, and ``replay`` judges again."""

    evidence: Evidence
    rollout: Rollout
    settings: dict[str, Any]
    verdict: Verdict


def judge(evidence: Evidence, rollout: Rollout, settings: JudgeSettings) -> Verdict:
    """Decide about a rollout's candidate.

    ABORT: a hard guard is broken, or a test shows that the candidate is worse than its margin allows. Only what both arms
    answered side by side is tested, so over the whole rollout, however often one looks, a candidate within all margins
    that answers with numbers is aborted with a chance of ``settings.alpha`` at most (for quality asymptotically). At
    weight 0 the candidate only answers copies, and what both versions made of the same requests is all there is to test. At
    weight 1, where there is no control, only the guards see what is new, and their margin is wide.

    ABORT too where the trial has gone on for more than ``settings.max_days``: what was never shown to be good has no claim.

    HOLD: below the minimum sample of either arm, or of this step; paused; or, at the last step that has a control, there are
    too few slices of time to judge latencies, or labels have begun to come and are too few. At weight 1 control is waited for
    no more, for it cannot come. PROMOTE: the last step has been passed. Else STEP.
    """
    if (evidence.candidate_version, evidence.stable_version) != (rollout.candidate, rollout.stable):
        return _verdict("HOLD", rollout, ["the evidence is about other versions than the rollout"])
    checks = (*guards(evidence, settings), *soft_checks(evidence, settings))
    if broken := [check for check in checks if check.outcome == "worse"]:
        return _verdict("ABORT", rollout, [f"{check.name}: {check.detail}" for check in broken], checks)
    if (days := _days(evidence)) > settings.max_days > 0:
        return _verdict("ABORT", rollout, [f"duration: {days:.1f} days, at most {settings.max_days:g}"], checks)
    if waits := _waits(evidence, rollout, settings, checks):
        return _verdict("HOLD", rollout, waits, checks)
    passed = ["; ".join(f"{check.name} {check.outcome}" for check in checks if check.needed is not None)]
    last = rollout.step == len(rollout.steps) - 1
    return _verdict("PROMOTE" if last else "STEP", rollout, passed, checks)


def _days(evidence: Evidence) -> float:
    """How long the trial has gone on; 0 where the time of the look was not given."""
    if not evidence.since or evidence.until is None:
        return 0.0
    return (moment(evidence.until) - moment(evidence.since)).total_seconds() / 86_400


def _waits(evidence: Evidence, rollout: Rollout, settings: JudgeSettings, checks: tuple[Check, ...]) -> list[str]:
    """Why the candidate cannot go on yet."""
    control = evidence.control_overall if rollout.weight == 0 else evidence.control
    fresh, needed = evidence.candidate_overall.fresh_requests, settings.min_requests
    waits: list[str] = []
    if rollout.weight < 1 and control.requests < needed:
        waits.append(f"control has {control.requests} of the {needed} requests needed")
    if fresh < needed:
        waits.append(f"the candidate has {fresh} of the {needed} requests needed at this step")
    if _is_last_compared(rollout):
        waits += [check.detail for check in _last_chances(evidence, rollout, checks) if check.outcome == "waiting"]
    if rollout.state == "paused":
        waits.append("the rollout is paused")
    return waits


def _last_chances(evidence: Evidence, rollout: Rollout, checks: tuple[Check, ...]) -> list[Check]:
    """What is to be known before there is no control any more: quality only where labels have begun to come, and latency only
    where the candidate has answered callers.
    """
    if rollout.weight == 0:
        return [named(checks, "paired quality")] if evidence.shadow.pairs.labelled else []
    labels = evidence.control.losses.labelled + evidence.candidate.losses.labelled
    return [named(checks, name) for name in (("latency", "quality") if labels else ("latency",))]


def _is_last_compared(rollout: Rollout) -> bool:
    """Whether no later step has a control: the last chance to wait for one."""
    following = rollout.steps[rollout.step + 1 :]
    return rollout.weight < 1 and (not following or following[0] >= 1)


def _verdict(decision: Decision, rollout: Rollout, reasons: list[str], checks: tuple[Check, ...] = ()) -> Verdict:
    share = f"{rollout.weight:.2%}".replace(".00%", "%")
    return Verdict(
        decision=decision,
        summary=f"{decision}: version {rollout.candidate} of {rollout.model} at {share}: {'; '.join(reasons)}",
        reasons=tuple(reasons),
        checks=checks,
    )


def record(evidence: Evidence, rollout: Rollout, settings: JudgeSettings, verdict: Verdict) -> dict[str, Any]:
    """The ledger payload of a verdict."""
    kept = VerdictRecord(evidence=evidence, rollout=rollout, settings=settings.model_dump(), verdict=verdict)
    return msgspec.to_builtins(kept)


def replay(payload: Any) -> tuple[Verdict, Verdict]:
    """The verdict that a ledger payload holds, and the one that its evidence gets today."""
    kept = msgspec.convert(payload, VerdictRecord)
    return kept.verdict, judge(kept.evidence, kept.rollout, JudgeSettings.model_validate(kept.settings))
