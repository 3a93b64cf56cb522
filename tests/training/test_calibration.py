import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from training.calibration import platt


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
