"""The hard guards: what aborts at once, below the minimum sample too."""

import dataclasses

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import Check, needed_alone
from monitoring.canary.checks import MIN_EMPTY, Share, empty_of, errors_of, log_e_share
from monitoring.canary.evidence import ArmEvidence, Evidence
from monitoring.canary.sequential import log_e_more_often

GUARD_MARGIN = 0.2
"""A share of errors, of empty answers or of unknown ids this much above control's aborts even below the minimum sample."""

MIN_CONSTANT = 50
"""Different inputs of each arm after which one score for all of them is no chance."""


def guards(evidence: Evidence, settings: JudgeSettings) -> tuple[Check, ...]:
    """The checks that abort at once, however little is known. They go on when the candidate has all traffic, against
    what control did before.
    """
    control, candidate = evidence.control_overall, evidence.candidate_overall
    return (
        _refused(evidence),
        _not_finite(control, candidate, settings),
        _wide_guard("many errors", errors_of(control), errors_of(candidate), evidence, settings),
        _wide_guard("many empty answers", empty_of(control), empty_of(candidate), evidence, settings, least=MIN_EMPTY),
        _unknown_ids(evidence, settings),
        _constant(control, candidate),
    )


def _refused(evidence: Evidence) -> Check:
    """A candidate that a server could not load, or whose golden requests came out otherwise there, has failed already."""
    return Check(
        name="refused at load",
        outcome="worse" if evidence.refused else "fine",
        unit="",
        detail=evidence.refused or "no server has refused it",
    )


def _not_finite(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    """The first answer that is no number aborts, unless control gives such answers too: then a higher share does."""
    before, after = (Share(arm.not_finite, arm.requests) for arm in (control, candidate))
    more = log_e_share(before, after, 0.0) >= needed_alone("not finite", settings)
    return _guard("not finite", before.hits, after.hits, fails=after.hits > 0 and (before.hits == 0 or more))


def _guard(name: str, control: int, candidate: int, *, fails: bool) -> Check:
    return Check(
        name=name,
        outcome="worse" if fails else "fine",
        unit="requests",
        control=control,
        candidate=candidate,
        difference=candidate - control,
        detail=f"{candidate} requests of the candidate, {control} of control",
    )


def _wide_guard(
    name: str, control: Share, candidate: Share, evidence: Evidence, settings: JudgeSettings, *, least: int = 1
) -> Check:
    """A test of shares at a margin so wide that it needs no minimum sample."""
    margin = max(GUARD_MARGIN, settings.error_margin)
    # A candidate that got all traffic at once is held against a control that never failed.
    known = Share(0, candidate.requests) if evidence.weight >= 1 and not control.requests else control
    log_e, needed = log_e_share(known, candidate, margin), needed_alone(name, settings)
    check = _guard(name, control.hits, candidate.hits, fails=candidate.hits >= least and log_e >= needed)
    return dataclasses.replace(check, limit=margin, log_e=log_e, needed=needed)


def _unknown_ids(evidence: Evidence, settings: JudgeSettings) -> Check:
    """How many more requests have an id or a category that the candidate does not know, out of the same requests."""
    seen, margin = evidence.unknown, max(GUARD_MARGIN, settings.error_margin)
    stable, candidate = (Share(seen.to_both + alone, seen.requests) for alone in (seen.to_stable, seen.to_candidate))
    log_e = float(log_e_more_often(seen.requests, seen.to_candidate, seen.to_stable, margin=margin))
    needed = needed_alone("unknown ids", settings)
    return Check(
        name="unknown ids",
        outcome="worse" if log_e >= needed else "fine",
        unit="share of requests",
        control=stable.rate,
        candidate=candidate.rate,
        difference=None if candidate.rate is None or stable.rate is None else candidate.rate - stable.rate,
        limit=margin,
        log_e=log_e,
        needed=needed,
        detail=f"of {seen.requests} requests {candidate.hits} have ids unknown to the candidate, {stable.hits} to stable",
    )


def _constant(control: ArmEvidence, candidate: ArmEvidence) -> Check:
    """One score for every request aborts, unless control does that too. Asked the same again and again, as one user may who is
    all that the candidate has, any model gives the same.
    """
    spread = [
        None if arm.lowest is None or arm.highest is None else arm.highest - arm.lowest for arm in (control, candidate)
    ]
    different = [arm.scored if arm.asked is None else arm.asked for arm in (control, candidate)]
    enough = min(different) >= MIN_CONSTANT
    return Check(
        name="constant output",
        outcome="worse" if enough and spread[1] == 0 and spread[0] != 0 else "fine",
        unit="highest less lowest score",
        control=spread[0],
        candidate=spread[1],
        detail=f"scores of {candidate.scored} requests differ by {spread[1] or 0:.4g}, control's by {spread[0] or 0:.4g}",
    )
