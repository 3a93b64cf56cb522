"""The drift benchmark: its streams, the rules of others, and a small run of all of it."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.drift.customers import NOTHING, Customers, Shift
from benchmarks.drift.movies import VISIT, Movies
from benchmarks.drift.rivals import RULE_NAMES, rules, wasserstein
from benchmarks.drift.wheel import TRIAL, Wheel


def test_customers_are_labelled_by_their_probabilities_and_shift_as_told():
    customers = Customers(np.random.default_rng(0))
    plain = customers.window(NOTHING, 0, 20_000)
    assert plain["label"].mean() == pytest.approx(plain["out_probability"].mean(), abs=0.01)
    assert plain["at"].is_monotonic_increasing
    shifted = customers.window(Shift(mean=0.5, tail=0.05, empty=0.1), 1, 20_000)
    assert shifted["in_balance"].mean() - plain["in_balance"].mean() == pytest.approx(0.5, abs=0.05)
    assert (shifted["in_waiting"] == 4.0).mean() == pytest.approx(0.05, abs=0.01)
    assert shifted["in_income"].isna().mean() == pytest.approx(0.1, abs=0.01)
    noisy = customers.window(Shift(noise=0.2), 2, 20_000)
    assert np.square(noisy["label"] - noisy["out_probability"]).mean() > 1.2 * np.square(
        plain["label"] - plain["out_probability"]
    ).mean()  # fmt: skip


def test_a_reference_holds_what_was_trained_on():
    customers = Customers(np.random.default_rng(1))
    reference = customers.reference([(Shift(mean=10.0), 0, 25)])
    assert (reference.frame["in_balance"] > 5).mean() == pytest.approx(0.5, abs=0.03)
    assert len(reference.frame) == 10_000


def test_movies_come_in_visits_of_real_ratings():
    movies = Movies(np.random.default_rng(2))
    reference = movies.reference(())
    window = movies.window(NOTHING, 0, 2000)
    visits = (window["in_user_id"].diff() != 0).cumsum().value_counts()
    assert len(window) == 2000
    assert visits.max() <= 2 * VISIT  # the same user twice in a row
    assert 9000 < len(reference.frame) < 11_000
    error = np.sqrt(np.square(window["label"] - window["out_rating"]).mean())
    assert 0.7 < error < 1.0  # what biases are good for on MovieLens
    known = window["in_item_id"].isin(reference.vocabularies["item_id"].entries).mean()
    assert 0.9 < known < 1.0
    with pytest.raises(ValueError, match="never changes"):
        movies.window(Shift(mean=1.0), 0, 10)


def test_the_distance_is_that_of_scipy():
    rng = np.random.default_rng(8)
    a, b = np.sort(rng.normal(size=500)), np.sort(rng.integers(0, 3, 200).astype(float))
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b))


def test_evidently_says_the_same_of_its_defaults():
    import warnings

    customers = Customers(np.random.default_rng(3))
    before = customers.reference(()).frame.drop(columns=["label", "at"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in monitoring/drift/report.py
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        numbers = [name for name in before if before[name].dtype.kind == "f"]
        definition = DataDefinition(
            numerical_columns=numbers, categorical_columns=[name for name in before if name not in numbers]
        )
        for shift in (NOTHING, Shift(mean=0.05), Shift(mean=0.2), Shift(tail=0.05), Shift(mean=3.0, plan=0.5)):
            window = customers.window(shift, 0, 2000)[list(before.columns)]
            sides = (Dataset.from_pandas(side, data_definition=definition) for side in (window, before))
            snapshot = Report([DataDriftPreset()]).run(*sides)
            metrics = {
                metric["metric_name"].partition("(")[0]: metric for metric in json.loads(snapshot.json())["metrics"]
            }
            share = metrics["DriftedColumnsCount"]["value"]["share"]
            ours = rules(before, window_rows=2000)
            assert ours["Evidently, any column"](window) == (share > 0)
            assert ours["Evidently, half of the columns"](window) == (share >= 0.5)


def test_every_rule_calls_what_is_plain_and_the_careful_ones_nothing_else():
    customers = Customers(np.random.default_rng(4))
    found = rules(customers.reference(()).frame, window_rows=2000)
    assert tuple(found) == RULE_NAMES
    everything = customers.window(Shift(mean=3.0, plan=0.9, tail=0.5), 0, 2000)
    same = customers.window(NOTHING, 0, 2000)
    assert [found[name](everything) for name in RULE_NAMES[1:]] == [True] * 3
    assert not found["Evidently, half of the columns"](same)


def test_one_retrain_for_a_shift_though_the_reference_is_mostly_of_before():
    customers = Customers(np.random.default_rng(5))
    wheel, shift = Wheel(customers, 0), Shift(mean=0.5)
    calls = []
    for number in range(25):
        now = NOTHING if number < 5 else shift
        calls.append(wheel.see(now, number, customers.window(now, number, 2000)).status == "drift")
    assert len(wheel.retrains) == 1
    assert 6 <= wheel.retrains[0] <= 7
    assert not any(calls[:5])
    assert all(calls[wheel.retrains[0] + TRIAL + 3 :])  # it goes on being called: the new reference is mostly of before
    assert wheel.reference.frame["in_balance"].mean() < 0.2


@pytest.mark.slow
def test_a_small_run_of_all_of_it(tmp_path):
    command = [sys.executable, "-m", "benchmarks.drift", "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    results = json.loads((tmp_path / "drift.json").read_text())
    assert "Targets" in done.stdout, done.stderr
    assert done.returncode in (0, 1)
    rows = {row["name"]: row for row in results["rows"]}
    assert rows["i.i.d."]["windows"] == {"Driftwheel": 20, **dict.fromkeys(RULE_NAMES, 3)}
    assert rows["a mean, +0.2 sigma"]["found"]["Driftwheel"] == 1.0
    assert len(rows["inputs and predictions, twice"]["counts"]) == 2


def test_the_cost_of_a_decision_is_measured(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.drift.cost",
        "--rows",
        "3000",
        "--rounds",
        "1",
        "--results",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    runs = json.loads((tmp_path / "drift_cost.json").read_text())["runs"]
    assert "A decision over 3,000 rows" in done.stdout, done.stderr
    for source in ("log", "table"):
        assert runs[source][0]["seconds"] > 0
        assert runs[source][0]["mib"] >= runs[source][0]["mib_before"] > 20
    assert pd.DataFrame(runs["log"]).notna().all().all()
