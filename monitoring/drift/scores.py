"""What was measured on one window: the recorded evidence that the drift decision is a pure function of."""

from dataclasses import dataclass
from typing import Literal

Group = Literal["input", "prediction"]
Kind = Literal["number", "category", "popularity", "top", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorScore:
    """One monitor on one window. ``p_value`` is the chance of such a distance when nothing has changed."""

    monitor: str
    """Unique in a window: the column and what of it is watched."""
    column: str
    group: Group
    kind: Kind
    statistic: float
    """A Jensen-Shannon divergence in nats, or a difference of shares."""
    p_value: float
    why: str
    """What differs most, in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityScore:
    """The realized loss of a window's labelled rows beside the reference's.

    ``at_least`` is the share by which the loss is shown to exceed the reference's (0: nothing shown).
    """

    outcome: Literal["fine", "down", "not enough labels"]
    loss: str
    labelled: int
    clusters: int
    reference_mean: float
    window_mean: float | None
    at_least: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowScores:
    """One window: ``rows`` rows between the times ``start`` and ``end`` (None for a table without times)."""

    start: str | None
    end: str | None
    rows: int
    scores: tuple[MonitorScore, ...]
    quality: QualityScore | None
    faults: tuple[str, ...] = ()
    """What makes the window unfit to learn from: absent or empty columns, values of the wrong kind."""
