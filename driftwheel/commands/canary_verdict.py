"""A verdict on the terminal: one version's checks below each other, several versions' side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from driftwheel.commands.common import ANSWER, PEOPLE, answer_json

if TYPE_CHECKING:
    from driftwheel.rollout import Rollout
    from monitoring.canary.check import Check
    from monitoring.canary.judge import Verdict
    from monitoring.canary.several import ArmVerdict

_CAPTION = "In brackets: control. Per cent: of the evidence that aborts."


def show_verdict(verdict: "Verdict", rollout: "Rollout", *, as_json: bool) -> None:
    """Print a verdict and what it rests on.

    Args:
        rollout: As it is after the verdict.
    """
    from dataclasses import asdict

    from monitoring.canary.several import TrialVerdict

    if as_json:
        answer_json({"verdict": asdict(verdict), "rollout": asdict(rollout)})
        return
    PEOPLE.print(verdict.summary, highlight=False)
    if isinstance(verdict, TrialVerdict):
        ANSWER.print(side_by_side([(one.version, one.verdict, _decision(one, rollout)) for one in verdict.arms]))
    else:
        ANSWER.print(_one(verdict))


def _one(verdict: "Verdict") -> Table:
    table = Table("check", "outcome", "control", "candidate", "detail")
    for check in verdict.checks:
        numbers = ("" if value is None else f"{value:.5g} {check.unit}" for value in (check.control, check.candidate))
        table.add_row(check.name, check.outcome, *numbers, check.detail)
    return table


def side_by_side(arms: "Sequence[tuple[int, Verdict, str]]") -> Table:
    """A column for each version (its number, the verdict on it, and what was decided), each compared with the same control."""
    from driftwheel.wheel.explaining import strengths

    table = Table("check", *(f"version {version}" for version, _, _ in arms), caption=_CAPTION)
    table.add_row("verdict", *(decided for _, _, decided in arms))
    table.add_row("why", *(_why(verdict) for _, verdict, _ in arms), end_section=True)
    found = [{check.name: check for check in verdict.checks} for _, verdict, _ in arms]
    shares = [strengths(verdict) for _, verdict, _ in arms]
    for name in dict.fromkeys(name for checks in found for name in checks):
        cells = [_cell(checks.get(name), share.get(name)) for checks, share in zip(found, shares, strict=True)]
        units = [check.unit for checks in found if (check := checks.get(name)) and check.candidate is not None]
        table.add_row(name + (f"\n  {units[0].split(';')[0]}" if units else ""), *cells)
    return table


def _decision(arm: "ArmVerdict", rollout: "Rollout") -> str:
    return arm.verdict.decision + ("" if arm.version in rollout.on_trial else ", dropped")


def _why(verdict: "Verdict") -> str:
    """The reasons, but for those of a step: that each check is fine stands below."""
    return "it passes" if verdict.decision in ("STEP", "PROMOTE") else "; ".join(verdict.reasons)


def _cell(check: "Check | None", share: float | None) -> str:
    """One check of one version; ``share``: how far it is on its way to an abort."""
    if check is None:
        return ""
    told = check.outcome + ("" if share is None else f", {share:.0%}")
    if check.candidate is None:
        return told
    return f"{told}\n{check.candidate:.5g}" + ("" if check.control is None else f" ({check.control:.5g})")
