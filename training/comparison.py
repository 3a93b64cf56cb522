"""Two models on the same rows: which metrics differ by more than chance. Pure functions of answers and a seed.

Differences are bootstrapped in pairs (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993): a resample takes both
models' answers to the same rows. Where rows belong to users, whole users are drawn (the cluster bootstrap), since one user's
ratings are alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Task
from training.config import TrainConfig
from training.final_metrics import RANKING_CUTOFFS, task_metrics
from training.metrics import Relevant, beyond_accuracy, user_metrics

RESAMPLES = 1000
CONFIDENCE = 0.95

HEADLINE: dict[Task, str] = {"rating": "rmse", "churn": "auc"}
"""The metric that decides, which is the gate's too."""
RANKING_HEADLINE = "ndcg_at_10"
"""The same, of what is trained to rank."""

_LOWER_IS_BETTER = {"rmse", "mae", "log_loss", "brier", "ece", "cost"}
_HIGHER_IS_BETTER = {"auc", "average_precision", "f1"}

Better = Literal["a", "b"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of two models on the same rows."""

    metric: str
    a: float
    b: float
    delta: float
    """``b - a``."""
    low: float | None
    """The difference's confidence interval, from here; None of what is no mean over users, and of popularity."""
    high: float | None
    better: Better | None
    """Whose value is better beyond the interval; None where the interval holds 0, or where there is none."""


def differences(
    task: Task,
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    actual: NDArray[np.floating],
    *,
    clusters: NDArray[Any] | None,
    config: TrainConfig | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Difference]:
    """The metrics of a task of two models, with percentile intervals of their differences.

    Args:
        a: One model's answers ``[rows]``.
        b: The other's.
        actual: What was right.
        clusters: Whom each row belongs to, ``[rows]``; None: rows are independent of each other.
        config: Says what mistakes cost; the defaults unless given.
        on_progress: Called with the resamples done, and all.
    """
    whole = [task_metrics(task, answers, actual, config) for answers in (a, b)]
    names = [name for name in whole[0] if name in _LOWER_IS_BETTER | _HIGHER_IS_BETTER and name in whole[1]]
    drawn = np.full((resamples, len(names)), np.nan)
    for n, rows in enumerate(_resampled(len(actual), clusters, resamples, seed)):
        once = [task_metrics(task, answers[rows], actual[rows], config) for answers in (a, b)]
        drawn[n] = [once[1].get(name, np.nan) - once[0].get(name, np.nan) for name in names]
        on_progress(n + 1, resamples)
    tail = (1 - CONFIDENCE) / 2
    found: list[Difference] = []
    for name, column in zip(names, drawn.T, strict=True):
        # A resample with one class only has no AUC.
        low, high = np.quantile(column[~np.isnan(column)], [tail, 1 - tail])
        values = {"a": whole[0][name], "b": whole[1][name], "delta": whole[1][name] - whole[0][name]}
        found.append(
            Difference(metric=name, **values, low=float(low), high=float(high), better=_better(name, low, high))
        )
    return found


def ranking_differences(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    relevant: Relevant,
    popularity: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Difference]:
    """The metrics of two models' lists for the same users, with percentile intervals of the differences between the means over
    users, whole users being drawn. Coverage and popularity are neither better nor worse when they are higher.

    Args:
        a: One model's lists ``[users, depth]``, best first, -1 where one ends early.
        b: The other's.
        popularity: ``[items]``, as ``metrics.ranking_metrics`` takes it.

    Raises:
        ValueError: Lists are shorter than the longest cutoff, or nobody has anything relevant.
    """
    sides = [user_metrics(lists, relevant, len(popularity), cutoffs=RANKING_CUTOFFS) for lists in (a, b)]
    names = list(sides[0])
    first, second = (np.stack([each[name] for name in names], axis=1) for each in sides)
    users = len(first)
    if not users:
        raise ValueError("nobody has anything relevant")
    random = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(names)))
    for n in range(resamples):
        drawn[n] = (second - first)[random.integers(0, users, users)].mean(axis=0)
        on_progress(n + 1, resamples)
    tail = (1 - CONFIDENCE) / 2
    found: list[Difference] = []
    for name, one, other, column in zip(names, first.mean(axis=0), second.mean(axis=0), drawn.T, strict=True):
        low, high = np.quantile(column, [tail, 1 - tail])
        values = {"a": float(one), "b": float(other), "delta": float(other - one)}
        found.append(
            Difference(metric=name, **values, low=float(low), high=float(high), better=_better(name, low, high))
        )
    return found + _beyond_accuracy(a, b, relevant, popularity)


def _beyond_accuracy(
    a: NDArray[np.int64], b: NDArray[np.int64], relevant: Relevant, popularity: NDArray[np.float64]
) -> list[Difference]:
    judged = np.bincount(relevant.row, minlength=len(a)) > 0
    found: list[Difference] = []
    for k in RANKING_CUTOFFS:
        one, other = (beyond_accuracy(lists[judged, :k], popularity) for lists in (a, b))
        found += [
            Difference(
                metric=name,
                a=one[name],
                b=other[name],
                delta=other[name] - one[name],
                low=None,
                high=None,
                better=None,
            )
            for name in one
        ]
    return found


def _better(name: str, low: float, high: float) -> Better | None:
    if low <= 0 <= high:
        return None
    return "b" if (high < 0) == (name in _LOWER_IS_BETTER) else "a"


def _resampled(rows: int, clusters: NDArray[Any] | None, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each resample: as many rows as there are, or all rows of as many clusters as there are."""
    random = np.random.default_rng(seed)
    if clusters is None:
        for _ in range(resamples):
            yield random.integers(0, rows, rows)
        return
    _, cluster = np.unique(clusters, return_inverse=True)
    order = np.argsort(cluster, kind="stable")
    sizes = np.bincount(cluster)
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        chosen = random.integers(0, len(sizes), len(sizes))
        lengths = sizes[chosen]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield order[np.repeat(starts[chosen], lengths) + within]
