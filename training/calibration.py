"""Calibration of log odds: Platt, *Probabilistic Outputs for Support Vector Machines*, 1999; without a bias it is the
temperature of Guo and others, *On Calibration of Modern Neural Networks*, 2017.
"""

import numpy as np
from numpy.typing import NDArray

_STEPS = 50
_CONVERGED = 1e-10


def platt(logits: NDArray[np.floating], actual: NDArray[np.floating], *, spread: float) -> tuple[float, float]:
    """Scale and bias that make ``sigmoid(scale * logits + bias)`` most likely on rows held out from training.

    A normal prior of that spread around scale 1 and bias 0 keeps a small split from bending what is right already: the
    answer is (1, 0) without rows, and the maximum likelihood with many.

    Args:
        logits: Log odds ``[rows]``.
        actual: 0 or 1, ``[rows]``.
        spread: The prior's standard deviation, of scale and bias alike; not positive means no calibration.
    """
    if spread <= 0:
        return 1.0, 0.0
    design = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)
    prior, precision = np.array([1.0, 0.0]), np.eye(2) / spread**2
    found = prior.copy()
    for _ in range(_STEPS):  # Newton: the posterior is concave
        p = 1 / (1 + np.exp(-np.clip(design @ found, -50, 50)))
        gradient = design.T @ (actual - p) - precision @ (found - prior)
        step = np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]) + precision, gradient)
        found += np.clip(step, -1, 1)
        if np.abs(step).max() < _CONVERGED:
            break
    return float(found[0]), float(found[1])


def calibrated_log_loss(
    logits: NDArray[np.floating], actual: NDArray[np.floating], *, spread: float, parts: int = 10
) -> float:
    """The log loss of log odds that are calibrated on the same rows, each by the rows of the other parts: what ``platt``
    is worth, without rows that judge themselves.

    Args:
        parts: Rows go to them in turn.
    """
    part = np.arange(len(actual)) % parts
    calibrated = np.empty(len(actual))
    for one in range(parts):
        held = part == one
        scale, bias = platt(logits[~held], actual[~held], spread=spread)
        calibrated[held] = scale * logits[held].astype(np.float64) + bias
    return float(np.mean(np.logaddexp(0.0, calibrated) - actual * calibrated))
