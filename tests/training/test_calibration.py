import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from training.calibration import calibrated_log_loss, platt


def made(rows: int, scale: float, bias: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are off by a scale and a bias, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 1.5, rows)
    return logits, (random.random(rows) < 1 / (1 + np.exp(-(scale * logits + bias)))).astype(np.float64)


def test_many_rows_give_the_maximum_likelihood():
    logits, actual = made(20_000, 0.5, 0.7)
    scale, bias = platt(logits, actual, spread=100.0)
    best = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], actual)
    assert (scale, bias) == pytest.approx((best.coef_[0, 0], best.intercept_[0]), abs=1e-4)
    assert (scale, bias) == pytest.approx((0.5, 0.7), abs=0.06)


def test_few_rows_move_it_little():
    logits, actual = made(30, 0.5, 0.7)
    assert platt(logits, actual, spread=0.1) == pytest.approx((1.0, 0.0), abs=0.2)
    assert platt(logits[:0], actual[:0], spread=0.1) == (1.0, 0.0)
    assert platt(logits, actual, spread=0.0) == (1.0, 0.0)


@given(st.integers(0, 100), st.floats(-30, 30), st.sampled_from([0.0, 1.0]))
def test_strange_rows_give_numbers(rows: int, logit: float, label: float):
    found = platt(np.full(rows, logit), np.full(rows, label), spread=0.3)
    assert np.isfinite(found).all()


def test_the_loss_after_calibration_is_that_of_rows_held_out():
    logits, actual = made(4000, 0.5, 0.7)
    raw = calibrated_log_loss(logits, actual, spread=0.0)
    assert raw == pytest.approx(np.mean(np.log1p(np.exp(logits)) - actual * logits))
    right = 1 / (1 + np.exp(-(0.5 * logits + 0.7)))
    best = -np.mean(actual * np.log(right) + (1 - actual) * np.log1p(-right))
    assert best - 0.001 < calibrated_log_loss(logits, actual, spread=1.0) < raw - 0.02
    few, of_few = made(30, 1.0, 0.0, seed=3)
    assert calibrated_log_loss(few, of_few, spread=0.05) < calibrated_log_loss(few, of_few, spread=50.0)
