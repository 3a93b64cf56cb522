"""Open libraries on the folds of C1: ``python -m benchmarks.training.libraries.customers NAME``, in their own environment.

Each is fitted as ours are: with each candidate on the training rows of a fold, the best candidate and number of trees by
log loss on its inner validation rows; then that once more on both together; then asked about the fold held out.
"""
# pyright: reportMissingImports=false

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.training.libraries.exchange import save_measured
from benchmarks.training.libraries.reporting import Process

LABEL = "churned"
_NOT_FEATURES = [LABEL, "customer_id"]
_MOST_TREES = 1000
_PATIENCE = 50
"""Trees without a better validation log loss after which boosting stops."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Customers as a library takes them."""

    features: pd.DataFrame
    label: NDArray[np.int64]

    @classmethod
    def read(cls, *paths: Path) -> "Rows":
        table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
        return cls(table.drop(columns=_NOT_FEATURES), table[LABEL].to_numpy(np.int64))

    @property
    def categories(self) -> list[str]:
        return self.features.select_dtypes("object").columns.astype(str).tolist()

    @property
    def numbers(self) -> list[str]:
        return self.features.select_dtypes("number").columns.astype(str).tolist()


Predict = Callable[[Rows], NDArray[np.float64]]
Fit = Callable[[Rows, Rows | None, int, Mapping[str, Any]], tuple[Predict, Mapping[str, Any]]]
"""From training rows, validation rows (None in a refit), seed and parameters to a model, and what it found: the number of
trees of boosting, to be laid over the parameters in the refit."""


def catboost(
    train: Rows, valid: Rows | None, seed: int, parameters: Mapping[str, Any]
) -> tuple[Predict, Mapping[str, Any]]:
    """Prokhorenkova and others, 2018. Its own handling of categories and missing numbers."""
    from catboost import CatBoostClassifier, Pool

    def pool(rows: Rows) -> Any:
        features = rows.features.copy()
        features[train.categories] = features[train.categories].fillna("missing")
        return Pool(features, rows.label, cat_features=train.categories)

    model = CatBoostClassifier(
        **{"iterations": _MOST_TREES, **parameters},
        random_seed=seed,
        thread_count=2,
        verbose=False,
        allow_writing_files=False,
    )
    stop = {"eval_set": pool(valid), "early_stopping_rounds": _PATIENCE} if valid else {}
    model.fit(pool(train), **stop)
    return lambda rows: model.predict_proba(pool(rows))[:, 1], {"iterations": model.tree_count_}


def lightgbm(
    train: Rows, valid: Rows | None, seed: int, parameters: Mapping[str, Any]
) -> tuple[Predict, Mapping[str, Any]]:
    """Ke and others, 2017. Its own handling of categories and missing numbers."""
    from lightgbm import LGBMClassifier, early_stopping

    known = {name: sorted(train.features[name].dropna().unique()) for name in train.categories}

    def table(rows: Rows) -> pd.DataFrame:
        return rows.features.assign(**{n: pd.Categorical(rows.features[n], values) for n, values in known.items()})

    model = LGBMClassifier(
        **{"n_estimators": _MOST_TREES, **parameters}, random_state=seed, subsample_freq=1, n_jobs=2, verbose=-1
    )
    stop: dict[str, Any] = {}
    if valid:
        stop = {
            "eval_X": table(valid),
            "eval_y": valid.label,
            "eval_metric": "binary_logloss",
            "callbacks": [early_stopping(_PATIENCE, verbose=False)],
        }
    model.fit(table(train), train.label, **stop)
    found = {"n_estimators": model.best_iteration_ or model.n_estimators}
    return lambda rows: np.asarray(model.predict_proba(table(rows)))[:, 1], found


def forest(
    train: Rows,
    valid: Rows | None,  # noqa: ARG001 (nothing is stopped early)
    seed: int,
    parameters: Mapping[str, Any],
) -> tuple[Predict, Mapping[str, Any]]:
    """scikit-learn's random forest over flags and numbers."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer

    model = RandomForestClassifier(random_state=seed, n_jobs=2, **parameters)
    return _piped(train, SimpleImputer(strategy="median"), model), {}


def splines(
    train: Rows,
    valid: Rows | None,  # noqa: ARG001 (nothing is stopped early)
    seed: int,  # noqa: ARG001 (there is no chance in it)
    parameters: Mapping[str, Any],
) -> tuple[Predict, Mapping[str, Any]]:
    """scikit-learn's logistic regression over flags and cubic splines of the numbers."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    curves = make_pipeline(SimpleImputer(strategy="median"), SplineTransformer(n_knots=8, knots="quantile"))
    return _piped(train, curves, LogisticRegression(solver="newton-cholesky", **parameters)), {}


def _piped(train: Rows, numbers: Any, model: Any) -> Predict:
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    flags = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    piped = make_pipeline(make_column_transformer((flags, train.categories), (numbers, train.numbers)), model)
    piped.fit(train.features, train.label)
    return lambda rows: piped.predict_proba(rows.features)[:, 1]


@dataclass(frozen=True, slots=True)
class Library:
    """A model and the parameters that it is chosen from in each fold."""

    fit: Fit
    candidates: Sequence[Mapping[str, Any]]
    chance: bool = True
    """Whether another seed gives another answer."""


LIBRARIES = {
    "CatBoost": Library(catboost, [{"learning_rate": 0.05, "depth": d, "one_hot_max_size": 8} for d in (4, 6)]),
    "LightGBM": Library(
        lightgbm,
        [{"learning_rate": 0.03, "num_leaves": n, "subsample": 0.8, "colsample_bytree": 0.8} for n in (4, 8)],
    ),
    "random forest, tuned": Library(forest, [{"n_estimators": 300, "min_samples_leaf": n} for n in (5, 10)]),
    "random forest, its defaults": Library(forest, [{}]),
    "splines and logistic": Library(splines, [{"C": c} for c in (0.03, 0.3, 3.0)], chance=False),
}


def log_loss(probability: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """The mean over rows."""
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))


def answers(library: Library, fold: Path, seed: int, chosen: dict[str, int]) -> NDArray[np.float64]:
    """A library's probabilities of the fold's test rows.

    Args:
        chosen: By fold, the candidate that was best with the first seed; other seeds keep it.
    """
    train, valid = Rows.read(fold / "train.parquet"), Rows.read(fold / "valid.parquet")
    tried: list[tuple[float, int, Mapping[str, Any]]] = []
    for number in [chosen[fold.name]] if fold.name in chosen else range(len(library.candidates)):
        predict, found = library.fit(train, valid, seed, library.candidates[number])
        tried.append((log_loss(predict(valid), valid.label), number, found))
    _, best, found = min(tried, key=lambda one: one[:2])
    chosen[fold.name] = best
    both = Rows.read(fold / "train.parquet", fold / "valid.parquet")
    predict, _ = library.fit(both, None, seed, {**library.candidates[best], **found})
    return predict(Rows.read(fold / "test.parquet"))


def main() -> None:
    """Answer each fold's test rows, one fold after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=LIBRARIES)
    parser.add_argument("--folds", type=json.loads, required=True, help="folders with parquet files, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--chosen", type=json.loads, default={}, help="as of answers, as JSON")
    parser.add_argument("--answer", type=Path, required=True, help="the npz file to write")
    arguments = parser.parse_args()
    library, chosen = LIBRARIES[arguments.name], dict(arguments.chosen)
    process, started = Process(), time.perf_counter()
    made = [answers(library, Path(fold), arguments.seed, chosen) for fold in arguments.folds]
    seconds = time.perf_counter() - started
    save_measured(arguments.answer, process.measured(np.concatenate(made), seconds, chosen))


if __name__ == "__main__":
    main()
