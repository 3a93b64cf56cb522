"""One row of a verdict's table, and how much evidence it takes to turn it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from driftwheel.settings import JudgeSettings
from monitoring.canary.sequential import Floats

Outcome = Literal["fine", "worse", "waiting"]
"""``fine``: nothing was shown against the candidate. ``waiting``: too little is known to look."""

MIN_CLUSTERS = 10
"""Users of each arm below which the spread between users, and so the quality test, means nothing."""

STAKES = {
    "not finite": 0.01,
    "unknown ids": 0.01,
    "many errors": 0.01,
    "many empty answers": 0.01,
    "errors": 0.7,
    "empty answers": 0.02,
    "latency": 0.08,
    "quality": 0.04,
    "paired quality": 0.06,
    "paired AUC": 0.04,
    "hit rate": 0.02,
}
"""How the chance of a false abort is shared. The test of errors, where requests are scarcest, gets the most; the others have
power to spare. The first four are guards."""

GUARDS = ("not finite", "unknown ids", "many errors", "many empty answers")

_MARGINS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 80)])
"""Where ``at_least`` is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table.

    ``control``, ``candidate`` and ``difference`` are the estimates, None where there is nothing to estimate from.
    ``limit`` is what the difference may be, ``at_least`` what it is shown to be, with the judge's confidence, however
    often one looked (0: nothing shown). ``log_e`` is the evidence that the limit is exceeded and ``needed`` how much of
    it aborts; both None where nothing is tested.
    """

    name: str
    outcome: Outcome
    unit: str
    control: float | None = None
    candidate: float | None = None
    difference: float | None = None
    limit: float = 0.0
    at_least: float = 0.0
    log_e: float | None = None
    needed: float | None = None
    detail: str


def soft_alpha(settings: JudgeSettings) -> float:
    """What the guards leave of the chance of a false abort."""
    return settings.alpha * sum(stake for name, stake in STAKES.items() if name not in GUARDS)


def needed_alone(name: str, settings: JudgeSettings) -> float:
    """The evidence that a test needs for an abort by itself."""
    return -math.log(STAKES[name] * settings.alpha)


def at_least(log_e: Callable[[Floats], Floats], needed: float) -> float:
    """The largest margin that the evidence speaks against as loudly as ``needed``; 0: none."""
    shown = _MARGINS[log_e(_MARGINS) >= needed]
    return float(shown.max()) if len(shown) else 0.0


def named(checks: Sequence[Check], name: str) -> Check:
    """The check of that name."""
    return next(check for check in checks if check.name == name)
