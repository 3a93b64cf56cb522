import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.vocabulary import Vocabulary
from monitoring.drift.columns import CategoryBins, PopularityBins, QuantileBins, as_numbers, indices, is_missing

anything = st.lists(st.one_of(st.none(), st.floats(), st.integers(-5, 5), st.text(max_size=3)), max_size=30)


@settings(max_examples=100, deadline=None)
@given(anything, anything)
def test_no_column_makes_a_binning_raise(reference, window):
    before, now = pd.Series(reference, dtype=object), pd.Series(window, dtype=object)
    for binning in (QuantileBins.of(before), CategoryBins.of(Vocabulary(["a", "b"]))):
        bins = binning.assign(now)
        assert len(bins) == len(window)
        assert ((bins >= 0) & (bins < len(binning.labels))).all()


@pytest.mark.parametrize("values", [[None] * 5, [np.nan] * 5, [], ["x"] * 5])
def test_a_column_of_nothing_has_one_bin_and_missing(values):
    binning = QuantileBins.of(pd.Series(values, dtype=object))
    assert binning.labels == ("any number", "missing")
    assert binning.assign(pd.Series([1.0, None])).tolist() == [0, 1]


def test_quantile_bins_hold_about_what_they_should():
    values = pd.Series(np.random.default_rng(0).normal(size=10_000))
    binning = QuantileBins.of(values)
    shares = np.bincount(binning.assign(values), minlength=len(binning.labels)) / 10_000
    assert shares == pytest.approx([0.01, 0.04, 0.05, *[0.1] * 8, 0.05, 0.04, 0.01, 0.0], abs=1e-3)


def test_float_rounding_does_not_split_a_common_value():
    prices = pd.Series([29.85, 56.95, 70.7] * 100)
    binning = QuantileBins.of(prices)
    assert (binning.assign(prices) == binning.assign(prices.astype("float32"))).all()


def test_categories_unknown_and_missing():
    binning = CategoryBins.of(Vocabulary(["DSL", "Fiber"]))
    assert binning.labels == ("DSL", "Fiber", "unknown", "missing")
    column = pd.Series(["Fiber", "DSL", "Cable", None, "", np.nan], dtype=object)
    assert binning.assign(column).tolist() == [1, 0, 2, 3, 3, 3]


def test_ids_with_gaps_are_found():
    vocabulary = Vocabulary([5, 7])
    assert indices(pd.Series([7, 5, 9]), vocabulary).tolist() == [1, 0, -1]
    assert indices(pd.Series([7.0, np.nan]), vocabulary).tolist() == [1, -1]
    assert indices(pd.Series([None, None], dtype=object), vocabulary).tolist() == [-1, -1]


def test_popularity_buckets_are_of_about_equal_mass():
    ids = pd.Series(np.random.default_rng(1).zipf(1.5, 50_000) % 5000)
    binning = PopularityBins.of(ids)
    shares = np.bincount(binning.assign(ids), minlength=21) / len(ids)
    assert shares.sum() == pytest.approx(1.0)
    # A single id may hold several buckets' mass; the rest is even.
    assert np.median(shares[:20][shares[:20] > 0]) == pytest.approx(0.05, abs=0.02)
    assert binning.assign(pd.Series([10**9]))[0] == 20
    assert binning.in_top(pd.Series([1, 10**9])).tolist() == [True, False]


def test_popularity_of_nothing():
    binning = PopularityBins.of(pd.Series([], dtype="int64"))
    assert binning.assign(pd.Series([1, 2])).tolist() == [20, 20]
    assert binning.in_top(pd.Series([1])).tolist() == [False]


def test_text_in_a_number_column_is_missing():
    column = pd.Series(["1.5", "abc", None, np.inf], dtype=object)
    assert np.isnan(as_numbers(column)).tolist() == [False, True, True, True]
    assert is_missing(column, number=True).tolist() == [False, True, True, True]
