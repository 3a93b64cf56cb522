"""Why a trial went as it went: its verdicts out of the ledger, judged again, and drawn."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from driftwheel.errors import NotFoundError
from driftwheel.files import replaced
from driftwheel.settings import Settings
from monitoring.canary.judge import Verdict, replay
from monitoring.canary.looks import newest_look
from monitoring.ledger import Entry, Ledger
from monitoring.segments import moment

_NOT_WRITTEN = sys.maxsize
"""In the place of an entry's number, and above them all."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One verdict."""

    number: int | None
    """Its entry in the ledger; None for the newest look, where it said nothing new."""
    at: str
    requests: int
    """The candidate's, copies included."""
    verdict: Verdict
    """As it was given."""
    again: Verdict
    """What its evidence gets today."""


def history(settings: Settings, model: str, *, limit: int) -> list[Entry]:
    """What was done and judged about a model's releases, oldest first; the newest ``limit`` entries."""
    ledger = Ledger(settings.ledger)
    entries = [*ledger.latest(model, "rollout", limit=limit), *ledger.latest(model, "verdict", limit=limit)]
    return sorted(entries, key=lambda entry: entry.id)[-limit:]


def explain(settings: Settings, model: str, number: int | None) -> list[Explained]:
    """A verdict (None: the newest, written down or not) as the last of its trial's verdicts until then, oldest first.

    Raises:
        NotFoundError: There is no such verdict.
        DataError: What the judge kept of its newest look is damaged.
    """
    verdicts = Ledger(settings.ledger).entries(model, "verdict")
    if number is None:
        verdicts += _not_written(settings, model, verdicts)
    chosen = verdicts[-1] if verdicts and number is None else next((one for one in verdicts if one.id == number), None)
    if chosen is None:
        which = f"no verdict {number}" if number is not None else "no verdict yet"
        raise NotFoundError(f"the ledger has {which} about {model!r}", hint=f"driftwheel canary history {model}")
    trial = _trial_of(chosen)
    return [_explained(one) for one in verdicts if one.id <= chosen.id and _trial_of(one) == trial]


def _not_written(settings: Settings, model: str, verdicts: Sequence[Entry]) -> list[Entry]:
    """The newest look, where it is newer than the newest verdict, as an entry would be."""
    found = newest_look(settings.looks, model)
    if found is None or not verdicts or moment(found.at) <= moment(verdicts[-1].at):
        return []
    summary = found.payload["verdict"]["summary"]
    return [replace(verdicts[-1], id=_NOT_WRITTEN, at=found.at, summary=summary, payload=found.payload)]


def _trial_of(entry: Entry) -> tuple[int, str]:
    rollout = entry.payload["rollout"]
    return rollout["candidate"], rollout["started_at"]


def _explained(entry: Entry) -> Explained:
    verdict, again = replay(entry.payload)
    evidence = entry.payload["evidence"]
    arms = [evidence["candidate"], evidence.get("alone", {}), evidence.get("shadow", {}).get("candidate", {})]
    number = None if entry.id == _NOT_WRITTEN else entry.id
    return Explained(number, entry.at, sum(arm.get("requests", 0) for arm in arms), verdict, again)


def strengths(verdict: Verdict) -> dict[str, float]:
    """How far each test is on its way to an abort: its evidence as a share of what is needed, 0 to 1 and above."""
    return {
        check.name: max(check.log_e / check.needed, 0.0)
        for check in verdict.checks
        if check.log_e is not None and check.needed and check.outcome != "waiting"
    }


def draw(path: Path, model: str, looks: Sequence[Explained]) -> None:
    """A PNG of the evidence over the trial: a line for each test, and where it aborts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for name in dict.fromkeys(name for look in looks for name in strengths(look.verdict)):
        points = [(look.requests, found[name]) for look in looks if name in (found := strengths(look.verdict))]
        axis.plot(*zip(*points, strict=True), marker=".", linewidth=1.2, label=name)
    axis.axhline(1.0, color="firebrick", linestyle="--", linewidth=1)
    axis.annotate("abort", (0.01, 1.0), xycoords=("axes fraction", "data"), va="bottom", color="firebrick", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("requests of the candidate")
    axis.set_ylabel("evidence, as a share of what aborts")
    axis.set_title(f"{model}: {looks[-1].verdict.summary}", loc="left", fontsize=9, wrap=True)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.lines[1:]:
        axis.legend(fontsize=8, frameon=False)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
