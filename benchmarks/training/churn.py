"""C1: our estimators on Telco churn, trained, calibrated and refitted as for service, beside open libraries."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.tools.report import Target
from benchmarks.training.churn_folds import folds
from benchmarks.training.environment import library_python
from benchmarks.training.kept import CACHE, Kept, installed
from benchmarks.training.libraries.customers import LIBRARIES
from benchmarks.training.libraries.exchange import Measured as Answer
from benchmarks.training.libraries.exchange import load_measured
from training.config import ESTIMATORS, digest
from training.data.dataset import Dataset, encoded_split
from training.metrics import churn_metrics

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
    at: str = ""
    load: float = 0.0
    """As of ``exchange.Measured``."""


def measure(
    estimators: Sequence[str],
    libraries: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    on_run: Callable[[Measured], None],
    *,
    threads: int = 1,
    again: Iterable[str] = (),
    cache: Path = CACHE,
) -> list[Measured]:
    """Train each estimator and each library with each seed on each fold, and measure it on what the fold held out. Where no
    chance is involved, the first seed stands for all. Each answer is kept as soon as it is there, and what is kept is not
    trained again.

    Args:
        libraries: Names of ``libraries.customers``.
        on_run: Called with each estimator and seed as soon as it is measured.
        threads: Of ours.
        again: Names of estimators and libraries that are trained although their answers are kept.
        cache: Where answers are kept.
    """
    table = _Folds(list(folds(folder / "data")), again=frozenset(again), cache=cache)
    made: list[Measured] = []
    for name in libraries:
        chosen: Mapping[str, Any] = {}
        for seed in seeds if LIBRARIES[name].chance else seeds[:1]:
            words = ["benchmarks.training.libraries.customers", name, "--chosen", json.dumps(dict(chosen))]
            one, found = table.measure(name, seed, words, library=True)
            chosen = chosen or found
            made.append(one)
            on_run(one)
    for name in estimators:
        for seed in seeds[:1] if name in _WITHOUT_CHANCE else seeds:
            words = ["benchmarks.training.churn_ours", name, "--threads", str(threads)]
            made.append(table.measure(name, seed, words, library=False)[0])
            on_run(made[-1])
    return made


class _Folds:
    """The folds, and those who answer them: each in a process of its own, with one seed."""

    def __init__(self, datasets: list[Dataset], *, again: frozenset[str], cache: Path) -> None:
        self._folders = [str(dataset.folder.absolute()) for dataset in datasets]
        self._labels = [encoded_split(dataset, "test").label for dataset in datasets]
        self._kept = Kept(digest([dataset.fingerprint for dataset in datasets]), folder=cache, again=again)

    def measure(self, name: str, seed: int, words: list[str], *, library: bool) -> tuple[Measured, Mapping[str, Any]]:
        """What a module's answers are worth, and what it chose by itself.

        Args:
            words: The module and its own arguments.

        Raises:
            subprocess.CalledProcessError: It failed; it has said why.
        """
        key = (words, seed, installed(library=library))
        answer = self._kept.answer(name, key, lambda: self._answer(words, seed, library=library))
        ends = np.cumsum([len(label) for label in self._labels])[:-1]
        metrics = metrics_of(np.split(answer.values, ends), self._labels)
        return Measured(name, seed, metrics, answer.training_s, library, answer.at, answer.load), answer.found

    def _answer(self, words: list[str], seed: int, *, library: bool) -> Answer:
        python = library_python() if library else sys.executable
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answer.npz"
            command = [python, "-m", *words, "--folds", json.dumps(self._folders), "--seed", str(seed)]
            subprocess.run([*command, "--answer", path], check=True, cwd=_ROOT)
            return load_measured(path)


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
