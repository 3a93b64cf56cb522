"""Split C1 is the one that others were measured on."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.model_selection import StratifiedKFold

from benchmarks.training.churn import Measured, summary
from benchmarks.training.churn_folds import FOLDS, folds
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
