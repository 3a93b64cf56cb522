"""Realized quality: the loss of a window's labelled rows against the reference's."""

from typing import TYPE_CHECKING

import numpy as np

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
    rows = table.dropna(subset=["label", output])
    losses = loss(task, rows[output].to_numpy(), rows["label"].to_numpy())
    finite = np.isfinite(losses)
    key = "" if signature.key_input is None else INPUT_PREFIX + signature.key_input
    clusters = rows[key].factorize(use_na_sentinel=False)[0] if key in rows.columns else np.arange(len(rows))
    return sum_losses(losses[finite], clusters[finite])


def judge_quality(reference: LossSums, window: LossSums, *, task: Task, margin: float, alpha: float) -> QualityScore:
    """Whether the window's mean loss exceeds ``1 + margin`` times the reference's, beyond chance.

    One-sided at ``alpha``, by Student's t with cluster-robust variances of both means.
    """
    enough = window.labelled >= MIN_LABELS and window.clusters >= MIN_CLUSTERS and reference.clusters >= MIN_CLUSTERS
    at_least = _at_least(reference, window, alpha) if enough else 0.0
    down = enough and _excess_p_value(reference, window, np.asarray([margin]))[0] <= alpha
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


def _at_least(reference: LossSums, window: LossSums, alpha: float) -> float:
    shown = _MARGINS[_excess_p_value(reference, window, _MARGINS) <= alpha]
    return float(shown.max()) if len(shown) else 0.0


def _excess_p_value(reference: LossSums, window: LossSums, margins: "np.ndarray") -> "np.ndarray":
    from scipy.special import stdtr

    slack = 1.0 + margins
    excess = window.mean - slack * reference.mean
    spread = np.sqrt(window.variance_of_mean + slack**2 * reference.variance_of_mean)
    z = np.divide(excess, spread, out=np.where(excess > 0, np.inf, 0.0), where=spread > 0)
    return stdtr(min(reference.clusters, window.clusters) - 1, -z)
