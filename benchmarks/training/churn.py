"""C1: our network and scikit-learn's trees on Telco churn, trained, calibrated and refitted as for service."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.training.churn_folds import alone, folds, train_on
from training.config import Estimator, estimator_config
from training.data.dataset import Dataset, encoded_split
from training.inference import predict
from training.metrics import churn_metrics
from training.models.store import load_any

PUBLISHED = {"CatBoost": (0.8491, 0.4114, 0.010), "the guide's random forest": (0.8411, 0.4213, 0.019)}
"""AUC, log loss and pooled calibration error of tuned libraries on this split, measured before; not run here."""

TARGET = (0.848, 0.413, 0.013)
"""At least, at most, at most."""

_HEADLINE = ("auc", "log_loss", "ece", "brier", "average_precision", "f1", "cost")


@dataclass(frozen=True, slots=True)
class Measured:
    """One estimator with one seed over all folds."""

    estimator: Estimator
    seed: int
    metrics: dict[str, float]
    """``auc`` and ``log_loss`` as means over folds; the others of all folds' answers together."""
    seconds: float


def measure(
    estimators: Sequence[Estimator], seeds: Sequence[int], folder: Path, on_run: Callable[[Measured], None]
) -> list[Measured]:
    """Train each estimator with each seed on each fold, and measure it on what the fold held out.

    Args:
        on_run: Called with each estimator and seed as soon as it is measured.
    """
    datasets = list(folds(folder / "data"))
    with alone():
        made: list[Measured] = []
        for estimator in estimators:
            for seed in seeds:
                made.append(_measure(estimator, seed, datasets, folder / "jobs"))
                on_run(made[-1])
        return made


def _measure(estimator: Estimator, seed: int, datasets: list[Dataset], jobs: Path) -> Measured:
    started = time.perf_counter()
    answers: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    for dataset in datasets:
        model = load_any(train_on(dataset, estimator_config(estimator), seed, jobs).folder)
        test = encoded_split(dataset, "test")
        answers.append(predict(model, test.feed))
        labels.append(test.label)
    seconds = time.perf_counter() - started
    of_folds = [churn_metrics(answer, label) for answer, label in zip(answers, labels, strict=True)]
    metrics = churn_metrics(np.concatenate(answers), np.concatenate(labels))
    metrics |= {"auc_pooled": metrics["auc"]}
    metrics |= {name: statistics.mean(fold[name] for fold in of_folds) for name in ("auc", "log_loss")}
    return Measured(estimator, seed, metrics, seconds)


def summary(measured: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Means and deviations over seeds, by estimator."""
    found: dict[str, dict[str, Any]] = {}
    for estimator in dict.fromkeys(one.estimator for one in measured):
        runs = [one for one in measured if one.estimator == estimator]
        found[estimator] = {
            "seeds": [one.seed for one in runs],
            "seconds": statistics.mean(one.seconds for one in runs),
            **{name: statistics.mean(one.metrics[name] for one in runs) for name in _HEADLINE},
            "deviation": {name: statistics.pstdev(one.metrics[name] for one in runs) for name in _HEADLINE},
        }
    return found


def table(found: dict[str, dict[str, Any]]) -> Table:
    """What was measured, the target, and what other libraries reached."""
    made = Table("model", "seeds", "AUC", "log loss", "pooled ECE", "Brier", "s for 5 folds", title="C1: Telco churn")
    for name, one in found.items():
        numbers = [f"{one[key]:.4f} ±{one['deviation'][key]:.4f}" for key in ("auc", "log_loss", "ece", "brier")]
        made.add_row(name, str(len(one["seeds"])), *numbers, f"{one['seconds']:.0f}")
    for name, (auc, log_loss, ece) in {"target": TARGET, **PUBLISHED}.items():
        made.add_row(name, "", f"{auc:.4f}", f"{log_loss:.4f}", f"{ece:.3f}", "", "")
    return made
