"""What one run of each kind does: many windows without a change, windows after one, and a model through several."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from benchmarks.drift.customers import NOTHING, Customers, Shift
from benchmarks.drift.movies import Movies
from benchmarks.drift.rivals import Rule, rules
from benchmarks.drift.wheel import DRIFT, Stream, Wheel

Kind = Literal["i.i.d.", "daily cycle", "MovieLens, resampled"]

CYCLE = 0.3
"""Standard deviations that the daily cycle moves a number by, up and down."""

OURS = "Driftwheel"
ROWS = DRIFT.window_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run, with a chance of its own. ``what`` it is about:

    stationary: ``windows`` windows; others' rules look at the first ``rival_windows``.
    found: ``runs`` times (``rival_runs`` of them with others' rules) two windows without the shift, and then with it until it
        is found, at most ``windows``.
    retrains: from each of ``changes`` (a window, and the shift from there on) the model has its shift, ``windows`` in all.
    """

    what: Literal["stationary", "found", "retrains"]
    name: str
    kind: Kind
    seed: int
    windows: int
    rival_windows: int = 0
    runs: int = 0
    rival_runs: int = 0
    shift: Shift = NOTHING
    column: str = ""
    """The column that a shift is to be found in."""
    changes: tuple[tuple[int, Shift], ...] = ()


def run(job: Job) -> dict[str, Any]:
    """What came of it, with the job's ``what`` and ``name``."""
    doing = {"stationary": _stationary, "found": _found, "retrains": _retrains}[job.what]
    return {"what": job.what, "name": job.name, "seed": job.seed, **doing(job)}


def _stream(job: Job) -> Stream:
    rng = np.random.default_rng([job.seed, *job.name.encode()])
    if job.kind == "MovieLens, resampled":
        return Movies(rng)
    return Customers(rng, cycle=CYCLE if job.kind == "daily cycle" else 0.0)


def _stationary(job: Job) -> dict[str, Any]:
    stream = _stream(job)
    wheel = Wheel(stream, job.seed)
    others = rules(wheel.reference.frame, window_rows=ROWS) if job.rival_windows else {}
    calls = dict.fromkeys([OURS, *others], 0)
    for number in range(job.windows):
        window = stream.window(NOTHING, number, ROWS)
        calls[OURS] += wheel.see(NOTHING, number, window).status in ("drift", "broken data")
        if number < job.rival_windows:
            for name, rule in others.items():
                calls[name] += rule(window)
    seen = {name: job.windows if name == OURS else min(job.windows, job.rival_windows) for name in calls}
    return {"calls": calls, "windows": seen, "retrains": len(wheel.retrains)}


def _found(job: Job) -> dict[str, Any]:
    """At which window after the shift (0: not) each rule called it."""
    stream = _stream(job)
    found: dict[str, list[int]] = {}
    for run_number in range(job.runs):
        wheel = Wheel(stream, job.seed * 1000 + run_number)
        others = rules(wheel.reference.frame, window_rows=ROWS) if run_number < job.rival_runs else {}
        at = dict.fromkeys([OURS, *others], 0)
        for number in range(2):
            wheel.see(NOTHING, number, stream.window(NOTHING, number, ROWS))
        for number in range(1, job.windows + 1):
            window = stream.window(job.shift, number + 1, ROWS)
            if not at[OURS]:
                decision = wheel.see(job.shift, number + 1, window)
                at[OURS] = number * any(o.drifted and o.column == job.column for o in decision.outcomes)
            _ask(others, at, number, window)
            if all(at.values()):
                break
        for name, when in at.items():
            found.setdefault(name, []).append(when)
    return {"found": found}


def _ask(others: dict[str, Rule], at: dict[str, int], number: int, window: Any) -> None:
    for name, rule in others.items():
        if not at[name]:
            at[name] = number * rule(window)


def _retrains(job: Job) -> dict[str, Any]:
    """How many retrains began before the first change, and between each and the next."""
    stream = _stream(job)
    wheel = Wheel(stream, job.seed)
    shift, changes = NOTHING, dict(job.changes)
    for number in range(job.windows):
        shift = changes.get(number, shift)
        wheel.see(shift, number, stream.window(shift, number, ROWS))
    edges = [0, *changes, job.windows]
    return {"retrains": [sum(low <= one < high for one in wheel.retrains) for low, high in pairwise(edges)]}
