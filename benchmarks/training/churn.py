"""C1: our estimators on Telco churn, trained, calibrated and refitted as for service, beside open libraries."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.tools.report import Target
from benchmarks.training.churn_folds import alone, folds, train_on
from benchmarks.training.environment import library_python
from benchmarks.training.libraries.customers import LIBRARIES
from training.config import ESTIMATORS, estimator_config
from training.data.dataset import Dataset, encoded_split
from training.inference import predict
from training.metrics import churn_metrics
from training.models.store import load_any

TARGET = (0.848, 0.413, 0.013)
"""At least, at most, at most."""

_CLOSE = 0.003
"""How much lower the network's AUC may be than the best estimator's."""

_WITHOUT_CHANCE = frozenset({"boosting"})
"""Our estimators that another seed changes nothing of."""

_ROOT = Path(__file__).parents[2]

_HEADLINE = ("auc", "log_loss", "ece", "brier", "average_precision", "f1", "cost")


@dataclass(frozen=True, slots=True)
class Measured:
    """One estimator with one seed over all folds."""

    estimator: str
    seed: int
    metrics: dict[str, float]
    """``auc`` and ``log_loss`` as means over folds; the others of all folds' answers together."""
    seconds: float
    library: bool = False
    """Whether it is another library's, and not what Driftwheel trains."""


def measure(
    estimators: Sequence[str],
    libraries: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    on_run: Callable[[Measured], None],
) -> list[Measured]:
    """Train each estimator and each library with each seed on each fold, and measure it on what the fold held out. Where no
    chance is involved, the first seed stands for all.

    Args:
        libraries: Names of ``libraries.customers``.
        on_run: Called with each estimator and seed as soon as it is measured.
    """
    datasets = list(folds(folder / "data"))
    made: list[Measured] = []
    for name in libraries:
        for one in _library(name, seeds if LIBRARIES[name].chance else seeds[:1], datasets, folder / "libraries"):
            made.append(one)
            on_run(one)
    with alone():
        for estimator in estimators:
            for seed in seeds[:1] if estimator in _WITHOUT_CHANCE else seeds:
                made.append(_measure(estimator, seed, datasets, folder / "jobs"))
                on_run(made[-1])
    return made


def _library(name: str, seeds: Sequence[int], datasets: list[Dataset], out: Path) -> Iterator[Measured]:
    out.mkdir(parents=True, exist_ok=True)
    folders = json.dumps([str(dataset.folder) for dataset in datasets])
    command = [library_python(), "-m", "benchmarks.training.libraries.customers", name, "--folds", folders]
    subprocess.run([*command, "--out", out, "--seeds", *map(str, seeds)], check=True, cwd=_ROOT)
    labels = [encoded_split(dataset, "test").label for dataset in datasets]
    for seed in seeds:
        with np.load(out / f"{seed}.npz", allow_pickle=False) as arrays:
            answers = [arrays[f"fold_{number}"] for number in range(len(datasets))]
            yield Measured(name, seed, metrics_of(answers, labels), float(arrays["seconds"]), library=True)


def _measure(estimator: str, seed: int, datasets: list[Dataset], jobs: Path) -> Measured:
    started = time.perf_counter()
    answers: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    for dataset in datasets:
        model = load_any(train_on(dataset, estimator_config("churn", estimator), seed, jobs).folder)
        test = encoded_split(dataset, "test")
        answers.append(predict(model, test.feed))
        labels.append(test.label)
    return Measured(estimator, seed, metrics_of(answers, labels), time.perf_counter() - started)


def metrics_of(answers: Sequence[NDArray[np.floating]], labels: Sequence[NDArray[np.floating]]) -> dict[str, float]:
    """The metrics of probabilities by fold: ``auc`` and ``log_loss`` as means over folds, the others pooled."""
    of_folds = [churn_metrics(answer, label) for answer, label in zip(answers, labels, strict=True)]
    metrics = churn_metrics(np.concatenate(answers), np.concatenate(labels))
    metrics |= {"auc_pooled": metrics["auc"]}
    return metrics | {name: statistics.mean(fold[name] for fold in of_folds) for name in ("auc", "log_loss")}


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
    auc, log_loss, ece = TARGET
    made.add_row("to be reached", "", f"{auc:.4f}", f"{log_loss:.4f}", f"{ece:.4f}", "", "")
    return made


def targets(found: dict[str, dict[str, Any]]) -> list[Target]:
    """Those of the best of ours, and how close the network comes to it; none for what was not measured."""
    ours = {name: one for name, one in found.items() if name in ESTIMATORS["churn"]}
    if not ours:
        return []
    best = max(ours, key=lambda name: ours[name]["auc"])
    auc, log_loss, ece = TARGET
    wanted = [
        Target(f"{best}: AUC", ours[best]["auc"], ">=", auc),
        Target(f"{best}: log loss", ours[best]["log_loss"], "<=", log_loss),
        Target(f"{best}: pooled calibration error", ours[best]["ece"], "<=", ece),
    ]
    if "network" in ours:
        gap = ours[best]["auc"] - ours["network"]["auc"]
        wanted.append(Target(f"network: AUC below that of {best}", gap, "<=", _CLOSE))
    return wanted
