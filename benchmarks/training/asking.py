"""Running an entrant and judging what it says."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.environment import library_python
from benchmarks.training.kept import Kept, installed
from benchmarks.training.libraries.entrants import Entrant
from benchmarks.training.libraries.exchange import HIGH, LOW, Measured, RatingSplit, load_measured
from training.metrics import Relevant, ranking_metrics, rating_metrics

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Run:
    """One entrant with one seed."""

    case: str
    name: str
    seed: int
    parameters: Mapping[str, Any]
    metrics: dict[str, float]
    training_s: float
    peak_mib: float
    at: str = ""
    load: float = 0.0
    """As of ``Measured``."""


_ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""What implicit asks for, which has threads of its own; and those who solve many small systems are slower with more."""


def python_of(entrant: Entrant) -> Path:
    """The Python that an entrant runs with: ours, or that of the libraries' environment."""
    return library_python() if entrant.is_library else Path(sys.executable)


def ask(
    entrant: Entrant,
    split: RatingSplit,
    path: Path,
    seed: int,
    *,
    python: Path,
    kept: Kept | None = None,
    **parameters: Any,
) -> Run:
    """Train an entrant on the split that lies at ``path``, unless its answer is kept, and judge what it says.

    Raises:
        RuntimeError: It failed; the message ends with what it said.
        ValueError: It answered in another form than was asked for.
    """

    def answered() -> Measured:
        return _answer(entrant, split.name, path, seed, python, parameters)

    key = (entrant.module, entrant.function, parameters, seed, installed(library=entrant.is_library))
    measured = kept.answer(entrant.name, key, answered) if kept else answered()
    metrics = {} if entrant.function == "fit" else judge(split, measured.values, ranks=entrant.function == "rank")
    cost = (measured.training_s, measured.peak_mib, measured.at, measured.load)
    return Run(entrant.case, entrant.name, seed, parameters, metrics, *cost)


def _answer(
    entrant: Entrant, split: str, path: Path, seed: int, python: Path, parameters: Mapping[str, Any]
) -> Measured:
    """What an entrant says, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.npz"
        command = [python, "-m", "benchmarks.training.libraries.run", entrant.module, entrant.function]
        options = ["--split", path, "--seed", str(seed), "--parameters", json.dumps(parameters), "--answer", answer]
        environment = os.environ | _ONE_BLAS_THREAD if entrant.is_library else os.environ
        done = subprocess.run(
            [*command, *options], cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{entrant.name} failed on {split}:\n{done.stderr}")
        return load_measured(answer)


def judge(split: RatingSplit, values: NDArray[Any], *, ranks: bool) -> dict[str, float]:
    """Metrics of predicted stars, clipped to the scale, or of rankings (popularity is the share of users who rated an item)."""
    if not ranks:
        if values.shape != (len(split.test),) or not np.isfinite(values).all():
            raise ValueError(f"expected {len(split.test)} finite predictions, not an array of shape {values.shape}")
        return rating_metrics(np.clip(values, LOW, HIGH), split.test.rating)
    if values.ndim != 2 or len(values) != split.users:
        raise ValueError(f"expected rankings for {split.users} users, not an array of shape {values.shape}")
    popularity = np.bincount(split.train.item, minlength=split.items) / split.users
    return ranking_metrics(values, Relevant(split.test.user, split.test.item), popularity)
