"""Metrics of predictions and of rankings, in numpy alone."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1, so that one wrong certainty does not make log loss infinite."""


def rating_metrics(predicted: Floats, actual: Floats) -> dict[str, float]:
    """``rmse`` and ``mae`` of scores ``[rows]``."""
    error = predicted.astype(np.float64) - actual
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


def churn_metrics(probability: Floats, actual: Floats) -> dict[str, float]:
    """``auc``, ``average_precision``, ``log_loss``, ``brier``, and ``f1`` at one half, of probabilities ``[rows]``.

    With one class only, ``auc`` and ``average_precision`` have no meaning and are left out.
    """
    p, y = np.clip(probability.astype(np.float64), _EPSILON, 1 - _EPSILON), actual.astype(np.float64)
    called, hits = float((p >= 0.5).sum() + y.sum()), float(((p >= 0.5) & (y == 1)).sum())
    metrics = {
        "log_loss": float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))),
        "brier": float(np.mean((p - y) ** 2)),
        "f1": 2 * hits / called if called else 0.0,
    }
    if 0 < y.sum() < len(y):
        metrics |= {"auc": roc_auc(p, y), "average_precision": average_precision(p, y)}
    return metrics


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


def ranking_metrics(ranked: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]], *, k: int) -> dict[str, float]:
    """``ndcg_at_k`` and ``recall_at_k``, averaged over users; empty without users.

    Args:
        ranked: For each user, the items recommended, best first, and the items that turned out relevant.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    ndcg: list[float] = []
    recall: list[float] = []
    for items, relevant in ranked:
        hit = np.isin(items[:k], relevant)
        ndcg.append(float(discount[: len(hit)][hit].sum() / discount[: min(k, len(relevant))].sum()))
        recall.append(float(hit.sum() / len(relevant)))
    if not ndcg:
        return {}
    return {f"ndcg_at_{k}": float(np.mean(ndcg)), f"recall_at_{k}": float(np.mean(recall))}
