import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from monitoring.drift.calibration import fit_null, holm, jensen_shannon, rate_p_value, shift
from monitoring.drift.clusters import (
    ClusteredCounts,
    contrast_p_value,
    divergence_p_value,
    rate_contrast_p_value,
)

DECILES = np.array([0.01, 0.04, 0.05, *[0.1] * 8, 0.05, 0.04, 0.01, 0.0])
histograms = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any)


@given(histograms, histograms)
def test_the_divergence_is_that_of_scipy(p, q):
    ours = float(jensen_shannon(np.array(p), np.array(q)))
    assert ours == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)
    assert 0 <= ours <= np.log(2) + 1e-9


@pytest.mark.parametrize("shares", [DECILES, np.ones(21), np.array([0.6, 0.39, 0.01, 0.0])])
@pytest.mark.parametrize(("rows", "window"), [(1400, 2000), (20_000, 2000)])
def test_the_fitted_tail_holds_far_out(shares, rows, window):
    """The rate of p-values below 1e-2, 1e-3 and 1e-4, over 100,000 pairs that differ by chance only."""
    rng = np.random.default_rng(0)
    shares = shares / shares.sum()
    null = fit_null(rng.multinomial(rows, shares), window, seed=0)
    pairs = (rng.multinomial(n, shares, size=100_000) for n in (rows, window))
    statistics = jensen_shannon(*pairs)
    for alpha, tolerance in ((1e-2, 1.5), (1e-3, 1.6), (1e-4, 3.0)):
        assert (statistics > null.threshold(alpha)).mean() <= tolerance * alpha


def test_p_value_and_threshold_agree():
    null = fit_null(np.array([100, 200, 300, 0]), 500, seed=1)
    for alpha in (0.5, 1e-3, 1e-8):
        assert null.p_value(null.threshold(alpha)) == pytest.approx(alpha, rel=1e-6)


def test_a_value_that_the_reference_happens_to_lack_is_no_alarm_but_many_are():
    null = fit_null(np.array([1400, 0]), 2000, seed=0)
    reference = np.array([1400, 0])
    assert null.p_value(float(jensen_shannon(reference, np.array([1999, 1])))) > 1e-3
    assert null.p_value(float(jensen_shannon(reference, np.array([1900, 100])))) < 1e-12


def test_a_reference_without_rows_does_not_raise():
    assert fit_null(np.array([0, 0]), 100, seed=0).p_value(0.0) == pytest.approx(1.0)


def test_the_shift_is_the_mann_whitney_test():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 10, 500), rng.integers(0, 10, 400) + (rng.random(400) < 0.2)
    above, p_value = shift(np.bincount(a, minlength=11), np.bincount(b, minlength=11))
    expected = stats.mannwhitneyu(b, a, method="asymptotic", use_continuity=False)
    assert above == pytest.approx(expected.statistic / (500 * 400))
    assert p_value == pytest.approx(expected.pvalue, rel=0.1)


@settings(max_examples=50)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1))
def test_rates_get_p_values_between_0_and_1(n0, n1, p, q):
    value = rate_p_value(int(p * n0), n0, int(q * n1), n1)
    assert 0 < value <= 1


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 0.8])
def test_equal_rates_are_rarely_called_different(rate):
    rng = np.random.default_rng(3)
    values = [rate_p_value(rng.binomial(1400, rate), 1400, rng.binomial(2000, rate), 2000) for _ in range(1500)]
    assert np.mean(np.array(values) <= 0.01) <= 0.018
    assert min(values) > 1e-5


def test_holm_rejects_step_by_step():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005]), 0.05).tolist() == [True, False, False, True]
    assert holm(np.array([]), 0.05).tolist() == []


def people(rng, users, rows, spread):
    """Rows of users who each have a taste of their own over 6 bins."""
    tastes = rng.dirichlet(np.full(6, 1 / spread), users)
    bins = np.concatenate([rng.choice(6, rows, p=taste) for taste in tastes])
    return ClusteredCounts.of(bins, np.repeat(np.arange(users), rows), size=6), np.bincount(bins, minlength=6)


def test_with_users_as_units_a_few_new_people_are_no_drift():
    rng = np.random.default_rng(4)
    p_rows, p_users, p_mean = [], [], []
    for _ in range(400):
        (before, counts), (now, later) = people(rng, 80, 40, 0.3), people(rng, 30, 40, 0.3)
        statistic = float(jensen_shannon(counts, later))
        p_rows.append(shift(counts, later)[1])
        p_users.append(divergence_p_value(statistic, before, now))
        p_mean.append(contrast_p_value(np.arange(6.0), before, now))
    assert np.mean(np.array(p_rows) < 0.01) > 0.08  # what taking rows for units would do
    assert np.mean(np.array(p_users) < 0.01) <= 0.025
    assert np.mean(np.array(p_mean) < 0.01) <= 0.025


def test_with_users_as_units_a_change_across_users_is_found():
    rng = np.random.default_rng(5)
    (before, counts), (now, later) = people(rng, 200, 10, 0.3), people(rng, 200, 10, 0.3)
    moved = now.shares.copy()
    moved[0], moved[5] = moved[0] - 0.12, moved[5] + 0.12
    assert contrast_p_value(np.arange(6.0), before, dataclasses.replace(now, shares=moved)) < 1e-6
    assert divergence_p_value(float(jensen_shannon(counts, later + np.array([400, 0, 0, 0, 0, 0]))), before, now) < 1e-3


def seldom(rng, users, rows, *, rate=0.015, alike=0.1):
    """Rows of users of whom each has a chance of their own to do a rare thing."""
    chances = rng.beta(rate / alike, (1 - rate) / alike, users)
    return ClusteredCounts.of(
        (rng.random(users * rows) < np.repeat(chances, rows)).astype(np.int64),
        np.repeat(np.arange(users), rows),
        size=2,
    )


def test_a_rare_thing_that_hardly_came_is_not_surely_rarer():
    """A window in which no user happens to do it has no variance of its own."""
    rng = np.random.default_rng(6)
    pairs = [(seldom(rng, 600, 15), seldom(rng, 40, 50)) for _ in range(400)]
    plain = np.array([contrast_p_value(np.array([0.0, 1.0]), *pair) for pair in pairs])
    ours = np.array([rate_contrast_p_value(*pair) for pair in pairs])
    assert np.mean(plain < 0.01) > 0.03  # what the variances of both samples alone would do
    assert np.mean(ours < 0.01) <= 0.015
    more = [rate_contrast_p_value(before, seldom(rng, 40, 50, rate=0.15)) for before, _ in pairs[:40]]
    assert np.mean(np.array(more) < 0.01) > 0.9
