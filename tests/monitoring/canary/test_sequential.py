"""How often the tests err when one looks again and again. Thousands of releases at once."""

import numpy as np
import pytest

from monitoring.canary.sequential import log_e_errors, log_e_mean, log_e_more_errors

ALPHA = 0.01
NEEDED = np.log(3 / ALPHA)
"""What each of the three tests needs to abort."""

LOOKS = 50


def error_streams(rng, runs, control_rate, rate, per_look):
    """Counts ``[looks, runs]`` of both arms, growing look by look."""
    n = per_look * np.arange(1, LOOKS + 1)[:, None]
    return n, *(rng.binomial(per_look, p, (LOOKS, runs)).cumsum(axis=0) for p in (control_rate, rate))


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.2])
def test_an_equal_error_rate_hardly_ever_aborts(rate):
    rng = np.random.default_rng(1)
    n, control, candidate = error_streams(rng, 4000, rate, rate, 200)
    ever = (log_e_errors(n, control, n, candidate, margin=0.0) >= NEEDED).any(axis=0)
    assert ever.mean() <= ALPHA / 3 + 3 * np.sqrt(ALPHA / 3 / 4000)


def test_an_error_rate_at_the_margin_hardly_ever_aborts():
    rng = np.random.default_rng(2)
    n, control, candidate = error_streams(rng, 4000, 0.01, 0.015, 200)
    ever = (log_e_errors(n, control, n, candidate, margin=0.005) >= NEEDED).any(axis=0)
    assert ever.mean() <= ALPHA / 3 + 3 * np.sqrt(ALPHA / 3 / 4000)


@pytest.mark.parametrize(("control_rate", "rate"), [(0.001, 0.02), (0.01, 0.03), (0.0, 0.015)])
def test_clearly_more_errors_are_caught(control_rate, rate):
    rng = np.random.default_rng(3)
    n, control, candidate = error_streams(rng, 1000, control_rate, rate, 200)
    ever = (log_e_errors(n, control, n, candidate, margin=0.005) >= NEEDED).any(axis=0)
    assert ever.mean() >= 0.99


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.2])
@pytest.mark.parametrize("smaller", [1, 4])
def test_equal_rates_hardly_ever_look_like_more_errors(rate, smaller):
    """Also where control has a quarter of the candidate's requests."""
    rng = np.random.default_rng(10)
    n = 200 * np.arange(1, LOOKS + 1)[:, None]
    control, candidate = (rng.binomial(per, rate, (LOOKS, 4000)).cumsum(axis=0) for per in (200 // smaller, 200))
    ever = (log_e_more_errors(n // smaller, control, n, candidate) >= NEEDED).any(axis=0)
    assert ever.mean() <= ALPHA / 3 + 3 * np.sqrt(ALPHA / 3 / 4000)


@pytest.mark.parametrize(("control_rate", "rate"), [(0.001, 0.006), (0.01, 0.02), (0.0, 0.004)])
def test_more_errors_are_told_from_the_errors_alone(control_rate, rate):
    rng = np.random.default_rng(11)
    n, control, candidate = error_streams(rng, 1000, control_rate, rate, 400)
    assert (log_e_more_errors(n, control, n, candidate) >= NEEDED).any(axis=0).mean() >= 0.99


def test_errors_on_nothing_are_no_evidence():
    assert log_e_errors(0, 0, 0, 0, margin=0.0) == pytest.approx(0.0)
    assert log_e_more_errors(0, 0, 0, 0) == pytest.approx(0.0)


def quality_streams(rng, runs, worse, users_per_look):
    """Excess, variance and rows ``[looks, runs]`` of clustered losses: a user has 5 rows and a taste of their own."""
    shape = (LOOKS, users_per_look, runs)
    means, variances = [], []
    for factor in (1.0, worse):
        taste = rng.gamma(4, 0.25, shape)
        sums = (rng.gamma(5, 1.0, shape) * taste * factor).reshape(-1, runs)
        users = np.arange(1, LOOKS + 1)[:, None] * users_per_look
        mean = sums.cumsum(axis=0)[users_per_look - 1 :: users_per_look] / users
        square = np.square(sums).cumsum(axis=0)[users_per_look - 1 :: users_per_look] / users
        means.append(mean / 5)
        variances.append((square - mean**2) / 25 / (users - 1))
    return means, variances, users


def ever_worse(rng, runs, *, worse, margin, users_per_look):
    (control, candidate), (v0, v1), users = quality_streams(rng, runs, worse, users_per_look)
    excess, variance = candidate - (1 + margin) * control, v1 + (1 + margin) ** 2 * v0
    log_e = log_e_mean(excess, variance, 10 * users, users)
    judged = 5 * users[:, 0] >= 200
    return (log_e[judged] >= NEEDED).any(axis=0).mean()


@pytest.mark.parametrize(("worse", "margin"), [(1.0, 0.0), (1.05, 0.05)])
@pytest.mark.parametrize("users_per_look", [10, 40])
def test_an_equal_loss_hardly_ever_aborts(worse, margin, users_per_look):
    rate = ever_worse(np.random.default_rng(8), 2000, worse=worse, margin=margin, users_per_look=users_per_look)
    assert rate <= 0.01


def test_a_clearly_higher_loss_is_caught():
    assert ever_worse(np.random.default_rng(9), 500, worse=1.2, margin=0.05, users_per_look=40) >= 0.99


def test_without_spread_there_is_no_evidence():
    assert log_e_mean(0.5, 0.0, 1000, 50) < 0
