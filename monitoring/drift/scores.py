"""What was measured on one window: the recorded evidence that the drift decision is a pure function of."""

from dataclasses import dataclass
from typing import Literal

Group = Literal["input", "prediction"]
Kind = Literal["number", "category", "popularity", "top", "unknown", "missing"]


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
class EstimatedQuality:
    """What a classifier's loss and area under the ROC curve are to be expected, if its probabilities are right: told from the
    predictions alone, before any label is there.

    "not calibrated": on the reference, whose labels are known, the expected loss is not the real one, and cannot be relied on.
    ``at_least`` is the share by which the expected loss is shown to exceed the reference's.
    """

    outcome: Literal["fine", "down", "not calibrated", "not enough rows"]
    reference_loss: float
    window_loss: float
    reference_auc: float | None
    """None where all rows are surely of one class."""
    window_auc: float | None
    at_least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """The newest recommendations of a version. They are its own choice: they are told, and no drift is called by them."""

    lists: int
    empty_lists: int
    items: int
    """Items in all lists, each as often as it was recommended."""
    coverage: float
    """The share of the items that the version knows which stand in any of the lists."""
    top_share: float
    """The share of ``items`` that are among the 50 that the reference asks for most; and the share of the reference's rows."""
    asked_top_share: float


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
    hours: Literal["day", "week"] | None = None
    """The cycle by which it was compared with rows of its own hours only; None: with all of the reference."""
    since_first: tuple[MonitorScore, ...] | None = None
    """Its inputs beside the first rows that the version met in service (none of them where those rows cannot be compared).
    None where no retrain made the version."""
    quality_since_first: QualityScore | None = None
    """Likewise its loss."""
    estimated: EstimatedQuality | None = None
    """Of models that answer with a probability."""
