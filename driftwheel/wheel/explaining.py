"""Why a trial went as it went: its verdicts out of the ledger, judged again, and drawn."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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

    version: int
    """The version that it is about."""
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


def explain(
    settings: Settings, model: str, number: int | None = None, *, version: int | None = None
) -> list[list[Explained]]:
    """Each version of the newest trial, in the order in which they began, by its newest verdict, written down or not. A verdict
    is explained as the last of its trial's verdicts on that version until then, oldest first.

    Args:
        number: A verdict's entry in the ledger: this one alone.
        version: Its newest verdict alone, whichever trial that was in.

    Raises:
        NotFoundError: There is no such verdict.
        DataError: What the judge kept of its newest look is damaged.
    """
    verdicts = Ledger(settings.ledger).entries(model, "verdict")
    if number is None:
        verdicts += _not_written(settings, model, verdicts)
    chosen = _chosen(verdicts, number, version)
    if not chosen:
        which = f"no verdict {number}" if number is not None else "no verdict yet"
        about = f"version {version} of {model!r}" if version is not None else repr(model)
        raise NotFoundError(f"the ledger has {which} about {about}", hint=f"driftwheel canary history {model}")
    return [
        [_explained(entry) for entry in verdicts if entry.id <= last.id and _trial_of(entry) == _trial_of(last)]
        for last in chosen
    ]


def _chosen(verdicts: Sequence[Entry], number: int | None, version: int | None) -> list[Entry]:
    """The newest verdicts that were asked for, one for each version."""
    if number is not None:
        return [entry for entry in verdicts if entry.id == number and version in (None, _trial_of(entry)[0])]
    if version is not None:
        return [entry for entry in verdicts if _trial_of(entry)[0] == version][-1:]
    newest = {_trial_of(entry)[0]: entry for entry in verdicts if _trial_of(entry)[1] == _trial_of(verdicts[-1])[1]}
    began = verdicts[-1].payload["rollout"].get("began") if verdicts else ()
    return [newest[one] for one in began or newest if one in newest]


def _not_written(settings: Settings, model: str, verdicts: Sequence[Entry]) -> list[Entry]:
    """The newest look at each version, where it is newer than the newest verdict on it, as an entry would be."""
    found = newest_look(settings.looks, model)
    written = {_trial_of(entry): entry for entry in verdicts}
    unwritten: list[Entry] = []
    for payload in reversed(found.payloads.values()) if found else ():
        last = written.get((payload["rollout"]["candidate"], payload["rollout"]["started_at"]))
        if found and last and moment(found.at) > moment(last.at):
            summary = payload["verdict"]["summary"]
            unwritten.append(replace(last, id=_NOT_WRITTEN, at=found.at, summary=summary, payload=payload))
    return unwritten


def _trial_of(entry: Entry) -> tuple[int, str]:
    rollout = entry.payload["rollout"]
    return rollout["candidate"], rollout["started_at"]


def _explained(entry: Entry) -> Explained:
    verdict, again = replay(entry.payload)
    evidence = entry.payload["evidence"]
    arms = [evidence["candidate"], evidence.get("alone", {}), evidence.get("shadow", {}).get("candidate", {})]
    number = None if entry.id == _NOT_WRITTEN else entry.id
    requests = sum(arm.get("requests", 0) for arm in arms)
    return Explained(_trial_of(entry)[0], number, entry.at, requests, verdict, again)


def strengths(verdict: Verdict) -> dict[str, float]:
    """How far each test is on its way to an abort: its evidence as a share of what is needed, 0 to 1 and above."""
    return {
        check.name: max(check.log_e / check.needed, 0.0)
        for check in verdict.checks
        if check.log_e is not None and check.needed and check.outcome != "waiting"
    }


def draw(path: Path, model: str, trials: Sequence[Sequence[Explained]]) -> None:
    """A PNG of the evidence over the trial: for each version a line for each test, and where it aborts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(trials), 1, figsize=(9, 4.5 * len(trials)), layout="constrained", squeeze=False)
    for axis, looks in zip(axes[:, 0], trials, strict=True):
        _draw_one(axis, model, looks)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def _draw_one(axis: Any, model: str, looks: Sequence[Explained]) -> None:
    for name in dict.fromkeys(name for look in looks for name in strengths(look.verdict)):
        points = [(look.requests, found[name]) for look in looks if name in (found := strengths(look.verdict))]
        axis.plot(*zip(*points, strict=True), marker=".", linewidth=1.2, label=name)
    axis.axhline(1.0, color="firebrick", linestyle="--", linewidth=1)
    axis.annotate("abort", (0.01, 1.0), xycoords=("axes fraction", "data"), va="bottom", color="firebrick", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_xlabel(f"requests of version {looks[-1].version}")
    axis.set_ylabel("evidence, as a share of what aborts")
    axis.set_title(f"{model}: {looks[-1].verdict.summary}", loc="left", fontsize=9, wrap=True)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.lines[1:]:
        axis.legend(fontsize=8, frameon=False)
