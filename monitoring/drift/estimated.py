"""Quality without labels: what a model's own probabilities say its loss and its area under the ROC curve are.

Where probabilities are right (calibrated), of rows with the probability p a share p is of the class 1, so that the expected
Brier loss of a row is p (1 - p), and the expected area follows from how far the two classes' rows lie apart. Nothing is learned
of a concept that changes: that takes labels. NannyML calls this confidence-based performance estimation.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from driftwheel.predictions import OUTPUT_PREFIX
from monitoring.drift.quality import exceeds_by, excess_p_value, in_clusters
from monitoring.drift.reference import Reference
from monitoring.drift.scores import EstimatedQuality
from monitoring.losses import LossSums

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 100

Floats = NDArray[np.float64]


def expected_losses(table: "pd.DataFrame", reference: Reference) -> LossSums:
    """The expected Brier losses of a table's rows with an answer; none where the table has no predictions."""
    probability = _probabilities(table, reference)
    if probability is None:
        return LossSums()
    return in_clusters(probability * (1 - probability), table, reference.signature)


def expected_auc(table: "pd.DataFrame", reference: Reference) -> float | None:
    """The expected area under the ROC curve: of all pairs of a row of class 1 and one of class 0 that are to be expected, the
    share in which the former has the higher probability. None where no pairs are.
    """
    probability = _probabilities(table, reference)
    if probability is None:
        return None
    values, counts = np.unique(probability[np.isfinite(probability)], return_counts=True)
    ones, zeros = values * counts, (1 - values) * counts
    alone = float((values * (1 - values) * counts).sum())  # a row is no pair with itself
    pairs = float(ones.sum() * zeros.sum()) - alone
    if pairs <= 0:
        return None
    won = float(ones @ (zeros.cumsum() - zeros / 2)) - alone / 2
    return won / pairs


def is_calibrated(reference: Reference, *, margin: float, alpha: float) -> bool:
    """Whether the reference's real loss is its expected one: not shown to be off by more than ``margin``, a share."""
    frame = reference.frame
    probability = _probabilities(frame, reference)
    if probability is None:
        return False
    real = in_clusters(np.square(probability - frame["label"].to_numpy(dtype=np.float64)), frame, reference.signature)
    expected = expected_losses(frame, reference)
    margins = np.asarray([margin])
    # Both are of the same rows and rise and fall together, so that this errs to saying nothing.
    off = (excess_p_value(expected, real, margins)[0], excess_p_value(real, expected, margins)[0])
    return min(off) > alpha


def estimate_quality(
    reference: LossSums,
    reference_auc: float | None,
    window: "pd.DataFrame",
    bundle: Reference,
    *,
    calibrated: bool,
    margin: float,
    alpha: float,
) -> EstimatedQuality | None:
    """What is to be expected of a window, beside what is of the reference; None for a window without predictions.

    Args:
        reference: Expected losses of the rows that it is compared with.
    """
    losses = expected_losses(window, bundle)
    if not losses.labelled:
        return None
    enough = losses.labelled >= MIN_ROWS and reference.labelled >= MIN_ROWS
    down = enough and excess_p_value(reference, losses, np.asarray([margin]))[0] <= alpha
    return EstimatedQuality(
        outcome="not calibrated" if not calibrated else "not enough rows" if not enough else "down" if down else "fine",
        reference_loss=reference.mean,
        window_loss=losses.mean,
        reference_auc=reference_auc,
        window_auc=expected_auc(window, bundle),
        at_least=exceeds_by(reference, losses, alpha) if enough and calibrated else 0.0,
    )


def _probabilities(table: "pd.DataFrame", reference: Reference) -> Floats | None:
    output = OUTPUT_PREFIX + reference.signature.outputs[0].name
    if reference.manifest.task != "churn" or output not in table.columns:
        return None
    return np.clip(table[output].to_numpy(dtype=np.float64), 0.0, 1.0)
