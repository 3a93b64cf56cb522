import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss, roc_auc_score

from driftwheel.contracts import Manifest, TrainingRecord
from driftwheel.settings import DriftSettings
from monitoring.drift.estimated import expected_auc, expected_losses, is_calibrated
from monitoring.drift.reference import Reference
from monitoring.drift.scoring import score_window
from monitoring.drift.yardstick import Yardstick
from tests.monitoring.worlds import CHURN, RATING

SIGNATURE = dataclasses.replace(CHURN, inputs=CHURN.inputs[:1])


def reference_of(table, task="churn", signature=SIGNATURE):
    training = TrainingRecord(run_id="", data_fingerprint="", data_until=None, rows=1, code_revision="")
    manifest = Manifest(
        name="m", version=1, task=task, created_at="", signature=signature, training=training, parity=()
    )  # fmt: skip
    return Reference(table, manifest, {})


def right(rows, seed, spread=1.5):
    """Customers and a model that is exactly right about them; with less spread it can tell less."""
    rng = np.random.default_rng(seed)
    probability = expit(spread * rng.standard_normal(rows) - 1)
    return pd.DataFrame(
        {
            "in_tenure": np.float32(1.0) + np.zeros(rows, np.float32),
            "out_probability": probability,
            "label": (rng.random(rows) < probability).astype(np.float32),
        }
    )


def test_what_is_expected_of_a_right_model_is_what_comes():
    table = right(200_000, 0)
    reference = reference_of(table)
    loss, auc = expected_losses(table, reference).mean, expected_auc(table, reference)
    assert loss == pytest.approx(brier_score_loss(table["label"], table["out_probability"]), abs=0.002)
    assert auc == pytest.approx(roc_auc_score(table["label"], table["out_probability"]), abs=0.004)


def test_the_area_is_the_mean_over_what_the_labels_can_be():
    """Of four rows, over all their labels: pairs won by pairs, as the probabilities weigh them."""
    p = np.array([0.1, 0.4, 0.4, 0.8])
    won = pairs = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                weight = p[i] * (1 - p[j])
                pairs += weight
                won += weight * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    table = pd.DataFrame({"out_probability": p})
    assert expected_auc(table, reference_of(table)) == pytest.approx(won / pairs)
    certain = pd.DataFrame({"out_probability": [1.0, 1.0]})
    assert expected_auc(certain, reference_of(certain)) is None


def estimated(reference, window):
    return score_window(window, Yardstick.of(reference, DriftSettings(), seed=0)).estimated


def test_harder_customers_are_told_without_labels():
    reference = reference_of(right(10_000, 1))
    found = estimated(reference, right(2000, 2, spread=0.3).drop(columns="label"))
    assert found is not None
    assert found.outcome == "down"
    assert found.at_least > 0.05
    assert found.window_auc is not None
    assert found.reference_auc is not None
    assert found.window_auc < found.reference_auc - 0.1
    same = [estimated(reference, right(2000, 10 + seed)) for seed in range(20)]
    assert {one.outcome for one in same if one} == {"fine"}


def test_probabilities_that_are_not_right_are_not_believed():
    table = right(10_000, 3)
    reference = reference_of(table.assign(out_probability=table["out_probability"] ** 4))
    assert not is_calibrated(reference, margin=0.05, alpha=0.001)
    assert is_calibrated(reference_of(table), margin=0.05, alpha=0.001)
    found = estimated(reference, right(2000, 4, spread=0.1))
    assert found is not None
    assert (found.outcome, found.at_least) == ("not calibrated", 0.0)


def test_a_table_without_predictions_or_of_ratings_expects_nothing():
    reference = reference_of(right(3000, 5))
    assert estimated(reference, right(2000, 6).drop(columns="out_probability")) is None
    ratings = pd.DataFrame({"out_rating": [3.0, 4.0], "label": [3.0, 4.0]})
    assert expected_auc(ratings, reference_of(ratings, "rating", RATING)) is None
    assert not expected_losses(ratings, reference_of(ratings, "rating", RATING)).labelled


def test_few_rows_expect_nothing():
    found = estimated(reference_of(right(3000, 7)), right(50, 8))
    assert found is not None
    assert found.outcome == "not enough rows"
