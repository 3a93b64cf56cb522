"""Realized quality: the loss of a window's labelled rows against the reference's."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Signature, Task
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from monitoring.drift.scores import QualityScore
from monitoring.losses import LossSums, loss, loss_name, sum_losses

if TYPE_CHECKING:
    import pandas as pd

MIN_LABELS = 100
MIN_CLUSTERS = 10
"""Labelled rows, and users among them, below which a window's quality is not judged."""

_MARGINS = np.concatenate([[0.0], np.geomspace(1e-4, 10.0, 200)])


def labelled_losses(table: "pd.DataFrame", signature: Signature, task: Task) -> LossSums:
    """The losses of a table's rows with a ``label`` and an answer, in clusters of the signature's key."""
    output = OUTPUT_PREFIX + signature.outputs[0].name
    if "label" not in table.columns or output not in table.columns:
        return LossSums()
    losses = loss(task, table[output].to_numpy(), table["label"].to_numpy())
    return in_clusters(losses, table, signature)


def in_clusters(losses: NDArray[np.float64], table: "pd.DataFrame", signature: Signature) -> LossSums:
    """Sums of losses ``[rows]`` in clusters of the signature's key; without those that are not finite."""
    finite = np.isfinite(losses)
    key = "" if signature.key_input is None else INPUT_PREFIX + signature.key_input
    if key not in table.columns:
        return sum_losses(losses[finite], np.arange(int(finite.sum())))
    return sum_losses(losses[finite], table[key][finite].factorize(use_na_sentinel=False)[0])


def judge_quality(reference: LossSums, window: LossSums, *, task: Task, margin: float, alpha: float) -> QualityScore:
    """Whether the window's mean loss exceeds ``1 + margin`` times the reference's, beyond chance.

    One-sided at ``alpha``, by Student's t with cluster-robust variances of both means.
    """
    enough = window.labelled >= MIN_LABELS and window.clusters >= MIN_CLUSTERS and reference.clusters >= MIN_CLUSTERS
    at_least = exceeds_by(reference, window, alpha) if enough else 0.0
    down = enough and excess_p_value(reference, window, np.asarray([margin]))[0] <= alpha
    return QualityScore(
        outcome="not enough labels" if not enough else "down" if down else "fine",
        loss=loss_name(task),
        labelled=window.labelled,
        clusters=window.clusters,
        reference_mean=reference.mean,
        window_mean=window.mean if window.labelled else None,
        at_least=at_least,
        margin=margin,
    )


def exceeds_by(reference: LossSums, window: LossSums, alpha: float) -> float:
    """The share by which the window's mean loss is shown to exceed the reference's, one-sided at ``alpha``; 0: by nothing."""
    shown = _MARGINS[excess_p_value(reference, window, _MARGINS) <= alpha]
    return float(shown.max()) if len(shown) else 0.0


def excess_p_value(reference: LossSums, window: LossSums, margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """One-sided p-values ``[margins]`` of the window's mean loss being above ``1 + margin`` times the reference's."""
    from scipy.special import stdtr

    slack = 1.0 + margins
    excess = window.mean - slack * reference.mean
    spread = np.sqrt(window.variance_of_mean + slack**2 * reference.variance_of_mean)
    z = np.divide(excess, spread, out=np.where(excess > 0, np.inf, 0.0), where=spread > 0)
    return stdtr(min(reference.clusters, window.clusters) - 1, -z)
