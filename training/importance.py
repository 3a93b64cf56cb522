"""What a churn model looks at: Breiman, *Random Forests*, 2001, section 10, for any model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Signature
from training.data.dataset import EncodedSplit
from training.inference import predict
from training.metrics import churn_metrics
from training.models.graph import GraphModel
from training.models.store import Model

REPEATS = 5
"""Shuffles of each input."""

_MOST_ROWS = 20_000
"""Rows that importance is measured on at most; drawn if there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much worse a model answers when an input's column is shuffled, which keeps its distribution and takes away
    what it says: mean and standard deviation over the shuffles.
    """

    feature: str
    log_loss: float
    """The rise of the log loss; negative where the input only misled."""
    log_loss_deviation: float
    auc: float
    """The fall of the area under the ROC curve."""
    auc_deviation: float


def permutation_importance(
    model: Model | GraphModel, signature: Signature, split: EncodedSplit, *, seed: int, repeats: int = REPEATS
) -> list[Importance]:
    """The importance of each public input on held-out rows, the greatest rise of the log loss first.

    Inputs that say the same stand in for each other, and each of them seems to matter little.

    Args:
        split: With both classes, or the AUC has no meaning.
    """
    random = np.random.default_rng(seed)
    rows = len(split.label)
    drawn = random.choice(rows, _MOST_ROWS, replace=False) if rows > _MOST_ROWS else np.arange(rows)
    feed, label = {name: column[drawn] for name, column in split.feed.items()}, split.label[drawn]
    whole = churn_metrics(predict(model, feed), label)
    found: list[Importance] = []
    for spec in signature.inputs:
        metrics = [
            churn_metrics(predict(model, _shuffled(feed, spec.graph_input, spec.column or 0, random)), label)
            for _ in range(repeats)
        ]
        rise = np.array([shuffled["log_loss"] - whole["log_loss"] for shuffled in metrics])
        fall = np.array([whole["auc"] - shuffled["auc"] for shuffled in metrics])
        found.append(
            Importance(
                feature=spec.name,
                log_loss=float(rise.mean()),
                log_loss_deviation=float(rise.std()),
                auc=float(fall.mean()),
                auc_deviation=float(fall.std()),
            )
        )
    return sorted(found, key=lambda one: -one.log_loss)


def _shuffled(
    feed: dict[str, NDArray[Any]], name: str, column: int, random: np.random.Generator
) -> dict[str, NDArray[Any]]:
    changed = feed[name].copy()
    changed[:, column] = random.permutation(changed[:, column])
    return {**feed, name: changed}
