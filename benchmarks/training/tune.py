"""``python -m benchmarks.training.tune --case R1``: every combination of an entrant's grid on the inner split, best first.

The best is what ``libraries/entrants.py`` (or ``ours.py``) has as the entrant's parameters. The inner split is cut from the
training part by the rule of the split itself, so nothing of the test part is seen here.
"""

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import get_args

from rich.table import Table

from benchmarks.tools.report import console
from benchmarks.training.asking import Run, ask, python_of
from benchmarks.training.libraries.entrants import Case, Entrant
from benchmarks.training.libraries.exchange import RatingSplit
from benchmarks.training.ratings import entrants_of
from benchmarks.training.ratings_splits import ratings_split


def tried(entrant: Entrant, split: RatingSplit, path: Path, seed: int) -> list[Run]:
    """A run for each combination, best first: by RMSE, or by NDCG at 10."""
    runs: list[Run] = []
    for values in itertools.product(*entrant.grid.values()):
        parameters = {**entrant.parameters, **dict(zip(entrant.grid, values, strict=True))}
        runs.append(ask(entrant, split, path, seed, python=python_of(entrant), **parameters))
        print(f"{parameters}: {abs(_error(runs[-1])):.4f}", flush=True)
    return sorted(runs, key=_error)


def _error(run: Run) -> float:
    return run.metrics["rmse"] if "rmse" in run.metrics else -run.metrics["ndcg_at_10"]


def _table(entrant: Entrant, runs: list[Run]) -> Table:
    metrics = ("ndcg_at_10", "recall_at_20") if entrant.function == "rank" else ("rmse",)
    made = Table(*entrant.grid, *metrics, "training s", title=f"{entrant.case}, inner split: {entrant.name}")
    for run in runs:
        numbers = [f"{run.metrics[metric]:.4f}" for metric in metrics]
        made.add_row(*(str(run.parameters[name]) for name in entrant.grid), *numbers, f"{run.training_s:.1f}")
    return made


def main() -> None:
    """Try them and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = [case for case in get_args(Case) if case != "throughput"]
    parser.add_argument("--case", choices=cases, required=True)
    parser.add_argument("--models", nargs="+", help="their names; default: all with a grid")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    split = ratings_split(arguments.case.split()[0], inner=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.npz"
        split.save(path)
        for entrant in entrants_of(arguments.case):
            if entrant.grid and (not arguments.models or entrant.name in arguments.models):
                console().print(_table(entrant, tried(entrant, split, path, arguments.seed)))


if __name__ == "__main__":
    main()
