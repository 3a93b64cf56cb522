"""Metrics of predictions and of rankings, in numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1, so that one wrong certainty does not make log loss infinite."""


CALIBRATION_BINS = 10
"""Tenths of the customers by predicted probability."""


def rating_metrics(predicted: Floats, actual: Floats) -> dict[str, float]:
    """``rmse`` and ``mae`` of scores ``[rows]``."""
    error = predicted.astype(np.float64) - actual
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What mistakes cost, in any one currency; being right costs nothing."""

    missed: float = 5.0
    """A customer who leaves and was made no offer."""
    needless: float = 1.0
    """An offer to a customer who would have stayed."""

    @property
    def threshold(self) -> float:
        """The probability from which an offer costs less than none, if the probabilities are calibrated: Elkan, *The
        Foundations of Cost-Sensitive Learning*, 2001.
        """
        return self.needless / (self.needless + self.missed)


def churn_metrics(probability: Floats, actual: Floats, costs: Costs = Costs()) -> dict[str, float]:
    """Metrics of probabilities ``[rows]`` of leaving: ``auc``, ``average_precision``, ``log_loss``, ``brier``, ``ece``,
    and ``f1`` at one half; ``cost``, the mean over customers at ``threshold``, which follows from the costs, with the
    counts of the confusion matrix there.

    With one class only, ``auc`` and ``average_precision`` have no meaning and are left out.
    """
    p, y = np.clip(probability.astype(np.float64), _EPSILON, 1 - _EPSILON), actual.astype(np.float64)
    metrics = {
        "log_loss": float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))),
        "brier": float(np.mean((p - y) ** 2)),
        "ece": calibration_error(p, y),
        "f1": f1(confusion_counts(p, y, 0.5)),
        "threshold": costs.threshold,
        "cost": mean_cost(p, y, costs.threshold, costs),
        **{name: float(count) for name, count in confusion_counts(p, y, costs.threshold).items()},
    }
    if 0 < y.sum() < len(y):
        metrics |= {"auc": roc_auc(p, y), "average_precision": average_precision(p, y)}
    return metrics


def confusion_counts(probability: Floats, actual: Floats, threshold: float) -> dict[str, int]:
    """How many rows are ``true_negatives``, ``false_positives``, ``false_negatives`` and ``true_positives``, if
    probabilities at or above the threshold are called positive.
    """
    called, positive = probability >= threshold, actual == 1
    return {
        "true_negatives": int((~called & ~positive).sum()),
        "false_positives": int((called & ~positive).sum()),
        "false_negatives": int((~called & positive).sum()),
        "true_positives": int((called & positive).sum()),
    }


def f1(counts: dict[str, int]) -> float:
    """The harmonic mean of precision and recall; 0 where neither is defined."""
    all_of_them = 2 * counts["true_positives"] + counts["false_positives"] + counts["false_negatives"]
    return 2 * counts["true_positives"] / all_of_them if all_of_them else 0.0


def mean_cost(probability: Floats, actual: Floats, threshold: float, costs: Costs) -> float:
    """What mistakes cost a row, if offers are made from that threshold on."""
    counts = confusion_counts(probability, actual, threshold)
    return (costs.missed * counts["false_negatives"] + costs.needless * counts["false_positives"]) / len(actual)


def equal_mass_bins(probability: Floats, bins: int = CALIBRATION_BINS) -> list[NDArray[np.int64]]:
    """The row numbers of each bin: rows by probability, cut into parts that differ by one row at most.

    Rows of equal probability are kept in their order, which may put them into neighbouring bins.
    """
    order = np.argsort(probability, kind="stable")
    return list(np.array_split(order, max(1, min(bins, len(order)))))


def calibration_error(probability: Floats, actual: Floats, bins: int = CALIBRATION_BINS) -> float:
    """The expected calibration error over bins of equal mass: the distance between the mean probability and the share of
    positives of a bin, averaged with the bins' rows as weights (Naeini, Cooper and Hauskrecht, *Obtaining Well
    Calibrated Probabilities Using Bayesian Binning*, 2015, with quantile bins as in Nguyen and O'Connor, 2015).

    Chance alone makes it positive: some .010 on 7,000 independent customers with probabilities that are exactly right. Answers
    pooled from the folds of a cross-validation are not independent, and can come out lower: on Telco churn
    they do in ten bins, for models that are not ours too, and do not in 20 or 40 (``benchmarks.training.partitions``).
    """
    gaps = [
        len(rows) * abs(probability[rows].mean() - actual[rows].mean()) for rows in equal_mass_bins(probability, bins)
    ]
    return float(sum(gaps) / len(actual))


def roc_auc(score: Floats, actual: Floats) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann and Whitney)."""
    _, group, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[group]
    positives = int((actual == 1).sum())
    return float((rank[actual == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(actual) - positives)))


def average_precision(score: Floats, actual: Floats) -> float:
    """Precision averaged over the steps of recall, equal scores taken as one step."""
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(actual[order] == 1)[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


@dataclass(frozen=True, slots=True)
class Relevant:
    """What turned out relevant: pairs of a row of the rankings and an item, each once."""

    row: NDArray[np.int64]
    item: NDArray[np.int64]


def ranking_metrics(
    ranked: NDArray[np.int64], relevant: Relevant, popularity: Floats, *, cutoffs: Sequence[int] = (10, 20)
) -> dict[str, float]:
    """How well rankings found what was relevant; for each cutoff ``k``, the mean over users who have anything relevant:

    - ``recall_at_k``: the share of the user's relevant items that are among the first ``k``;
    - ``hit_rate_at_k``: one if any is;
    - ``ndcg_at_k``: ``sum(1 / log2(place + 1))`` over relevant items by their place, counted from one, divided by what the
      best ranking would reach (Järvelin and Kekäläinen, 2002, with gains of zero and one);
    - ``map_at_k``: precision at the place of each relevant item, summed and divided by the smaller of ``k`` and how many are
      relevant;
    - ``mrr_at_k``: one over the place of the first relevant item, nothing where it comes later than ``k``;

    and of all lists of these users together:

    - ``coverage_at_k``: of the items that training saw, the share that stands in any list;
    - ``popularity_at_k``: the mean popularity of what stands in a list, averaged over lists (Abdollahpouri et al., 2019: it
      shows a bias where it lies far above the mean popularity of what users rate by themselves).

    Empty where nobody has anything relevant.

    Args:
        ranked: ``[users, depth]``, best first, no item twice; -1 where a list ends early.
        popularity: ``[items]``, for example the share of the training's users who rated the item; nothing means unseen.
        cutoffs: None may exceed ``depth``.

    Raises:
        ValueError: The lists are shorter than a cutoff.
    """
    count = np.bincount(relevant.row, minlength=len(ranked))
    lists = ranked[count > 0]
    if not len(lists):
        return {}
    each = user_metrics(ranked, relevant, len(popularity), cutoffs=cutoffs)
    found = {name: float(values.mean()) for name, values in each.items()}
    return found | {name: value for k in cutoffs for name, value in beyond_accuracy(lists[:, :k], popularity).items()}


def user_metrics(
    ranked: NDArray[np.int64], relevant: Relevant, items: int, *, cutoffs: Sequence[int] = (10, 20)
) -> dict[str, NDArray[np.float64]]:
    """What ``ranking_metrics`` takes the means of: a value for each user who has anything relevant, in the lists' order.

    Args:
        items: More than any index of an item.

    Raises:
        ValueError: The lists are shorter than a cutoff.
    """
    if max(cutoffs) > ranked.shape[1]:
        raise ValueError(f"rankings of {ranked.shape[1]} items cannot be judged at {max(cutoffs)}")
    count = np.bincount(relevant.row, minlength=len(ranked))
    hits = _hits(ranked, relevant, items)[count > 0]
    parts = [_accuracy_at(hits[:, :k], count[count > 0]) for k in cutoffs]
    return {name: values for part in parts for name, values in part.items()}


def _hits(ranked: NDArray[np.int64], relevant: Relevant, items: int) -> NDArray[np.bool_]:
    """``[users, depth]``: whether what stands there is relevant to that user."""
    pairs = np.arange(len(ranked))[:, None] * items + ranked
    return np.isin(pairs, relevant.row * items + relevant.item) & (ranked >= 0)


def _accuracy_at(hits: NDArray[np.bool_], count: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Each user's, for lists of ``k`` and how many items were relevant ``[users]``."""
    k = hits.shape[1]
    place = np.arange(1, k + 1)
    discount = 1 / np.log2(place + 1)
    reachable = np.minimum(count, k)
    precision = np.cumsum(hits, axis=1) / place
    each = {
        "recall": hits.sum(axis=1) / count,
        "hit_rate": hits.any(axis=1),
        "ndcg": hits @ discount / np.cumsum(discount)[reachable - 1],
        "map": (precision * hits).sum(axis=1) / reachable,
        "mrr": (hits / place).max(axis=1),
    }
    return {f"{name}_at_{k}": np.asarray(values, dtype=np.float64) for name, values in each.items()}


def beyond_accuracy(lists: NDArray[np.int64], popularity: Floats) -> dict[str, float]:
    """Coverage and popularity of lists of ``k``, as ``ranking_metrics`` has them."""
    k = lists.shape[1]
    there = lists >= 0
    shown = np.unique(lists[there])
    coverage = (popularity[shown] > 0).sum() / (popularity > 0).sum()
    of_lists = (
        np.where(there, popularity[lists], 0.0).sum(axis=1)[there.any(axis=1)] / there.sum(axis=1)[there.any(axis=1)]
    )
    mean = float(of_lists.mean()) if len(of_lists) else 0.0
    return {f"coverage_at_{k}": float(coverage), f"popularity_at_{k}": mean}
