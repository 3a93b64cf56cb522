"""Split C1 is the one that others were measured on."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.model_selection import StratifiedKFold

from benchmarks.training.churn import Measured, metrics_of, summary, targets
from benchmarks.training.churn_folds import FOLDS, folds
from benchmarks.training.libraries.customers import LIBRARIES, answers, log_loss
from training.data.dataset import read_split
from training.data.sources import CustomersSource, read_customers


def test_each_customer_is_tested_once_and_never_learned_from(tmp_path: Path):
    table = read_customers(CustomersSource())
    cut = StratifiedKFold(5, shuffle=True, random_state=42).split(table, table["churned"])
    datasets = list(folds(tmp_path))
    assert len(datasets) == FOLDS
    for dataset, (_, test) in zip(datasets, cut, strict=True):
        ids = {name: read_split(dataset, name)["customer_id"].to_pylist() for name in ("train", "valid", "test")}
        assert ids["test"] == table["customer_id"].iloc[test].tolist()
        assert sorted(itertools.chain.from_iterable(ids.values())) == sorted(table["customer_id"])
    assert len(pa.concat_tables([read_split(dataset, "test") for dataset in datasets])) == len(table)


def test_seeds_are_summed_up():
    names = ("auc", "log_loss", "ece", "brier", "average_precision", "f1", "cost")
    runs = [Measured("network", seed, dict.fromkeys(names, value), 2.0) for seed, value in ((42, 0.8), (43, 0.9))]
    found = summary(runs)["network"]
    assert found["seeds"] == [42, 43]
    assert np.isclose(found["auc"], 0.85)
    assert np.isclose(found["deviation"]["auc"], 0.05)


def test_auc_and_log_loss_are_means_over_folds_and_the_rest_is_pooled():
    labels = [np.array([0.0, 1.0]), np.array([0.0, 1.0])]
    found = metrics_of([np.array([0.2, 0.8]), np.array([0.6, 0.5])], labels)
    assert found["auc"] == 0.5
    assert found["auc_pooled"] == 0.75
    assert np.isclose(found["log_loss"], -np.mean(np.log([0.8, 0.8, 0.4, 0.5])))


def test_a_library_chooses_by_the_inner_rows_and_answers_for_the_fold(tmp_path: Path):
    dataset = next(iter(folds(tmp_path)))
    chosen: dict[str, int] = {}
    made = answers(LIBRARIES["splines and logistic"], dataset.folder, 42, chosen)
    label = read_split(dataset, "test")["churned"].to_numpy()
    assert log_loss(made, label) < 0.45
    assert list(chosen) == [dataset.folder.name]


def test_targets_are_of_the_best_of_ours_alone():
    def one(auc: float) -> dict:
        return {"auc": auc, "log_loss": 0.41, "ece": 0.02}

    wanted = targets({"CatBoost": one(0.86), "network": one(0.846), "boosting": one(0.85)})
    assert [(target.name, target.met) for target in wanted] == [
        ("boosting: AUC", True),
        ("boosting: log loss", True),
        ("boosting: pooled calibration error", False),
        ("network: AUC below that of boosting", False),
    ]
    assert targets({"CatBoost": one(0.86)}) == []
