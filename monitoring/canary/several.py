"""One decision about several versions on trial at once, out of a verdict on each. Pure, as the judge is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from driftwheel.rollout import Rollout
from driftwheel.settings import JudgeSettings
from monitoring.canary.evidence import Evidence
from monitoring.canary.judge import Decision, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One version on trial: what is known about it, and its own verdict."""

    version: int
    evidence: Evidence
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmVerdict:
    """The verdict on one of several versions."""

    version: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialVerdict(Verdict):
    """The verdict on a trial of several versions. Its checks are those of all, each named ``VERSION: CHECK``."""

    arms: tuple[ArmVerdict, ...]
    """The verdict on each version, in the order of the rollout."""


def settings_for(rollout: Rollout, settings: JudgeSettings) -> JudgeSettings:
    """The judge's settings for each of the versions that began a trial together: they share the chance of a false abort
    (Bonferroni), so that ``alpha`` bounds the chance that any of them is aborted though it is as good as stable.
    """
    return settings.model_copy(update={"alpha": settings.alpha / max(len(rollout.began), 1)})


def decide(judged: Sequence[Judged], rollout: Rollout, settings: JudgeSettings) -> tuple[Verdict, tuple[int, ...]]:
    """What to do with a trial, and which of its versions to drop.

    A version whose own verdict is ABORT is dropped, and the others go on; ABORT of the trial means that none is left. STEP
    takes all of them, and only when each could. Where the next share has no room for so many, or there is no next one, the
    best stays: the one with the lowest mean loss, where labels come, or else with the fewest errors; of equals the first.
    """
    if len(judged) == 1:
        return judged[0].verdict, ()
    aborted = [one for one in judged if one.verdict.decision == "ABORT"]
    if aborted:
        reasons = [f"version {one.version} is dropped: {'; '.join(one.verdict.reasons)}" for one in aborted]
        decision = "ABORT" if len(aborted) == len(judged) else "HOLD"
        return _verdict(decision, rollout, judged, reasons), tuple(one.version for one in aborted)
    waiting = [one for one in judged if one.verdict.decision == "HOLD"]
    if waiting:
        reasons = [f"version {one.version}: {'; '.join(one.verdict.reasons)}" for one in waiting]
        return _verdict("HOLD", rollout, judged, reasons), ()
    following = rollout.steps[rollout.step + 1 :]
    if following and following[0] <= rollout.room:
        return _verdict("STEP", rollout, judged, ["each of them passes"]), ()
    return _chosen(judged, rollout, settings)


def _chosen(judged: Sequence[Judged], rollout: Rollout, settings: JudgeSettings) -> tuple[Verdict, tuple[int, ...]]:
    """Keep the best; wait for labels where they have begun to come."""
    labelled = [one.evidence.candidate.losses.labelled for one in judged]
    if any(labelled) and min(labelled) < settings.min_labels:
        return _verdict(
            "HOLD", rollout, judged, [f"one of them has {min(labelled)} of {settings.min_labels} labels"]
        ), ()
    by, values = "mean loss", [one.evidence.candidate.losses.mean for one in judged]
    if not any(labelled):
        by, values = "share of errors", [_errors(one.evidence) for one in judged]
    best = judged[values.index(min(values))].version
    told = ", ".join(f"version {one.version} {value:.5g}" for one, value in zip(judged, values, strict=True))
    reasons = [f"no room for all at the next step; version {best} stays, by its {by} ({told})"]
    return _verdict("HOLD", rollout, judged, reasons), tuple(one.version for one in judged if one.version != best)


def _errors(evidence: Evidence) -> float:
    seen = evidence.candidate_overall
    return seen.errors / max(seen.requests, 1)


def _verdict(decision: Decision, rollout: Rollout, judged: Sequence[Judged], reasons: list[str]) -> TrialVerdict:
    """The trial's, with every version's own and the rows of its table."""
    several = " and ".join(str(one.version) for one in judged)
    share = f"{rollout.weight:.2%}".replace(".00%", "%")
    rows = [replace(row, name=f"{one.version}: {row.name}") for one in judged for row in one.verdict.checks]
    return TrialVerdict(
        decision=decision,
        summary=f"{decision}: versions {several} of {rollout.model} at {share} each: {'; '.join(reasons)}",
        reasons=tuple(reasons),
        checks=tuple(rows),
        arms=tuple(ArmVerdict(version=one.version, verdict=one.verdict) for one in judged),
    )
