"""R1, R2 and R3: our recommenders and those of open libraries on the same ratings, in one table."""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

from benchmarks.tools.report import Target
from benchmarks.training.asking import Run, ask, python_of
from benchmarks.training.kept import CACHE, Kept
from benchmarks.training.libraries.entrants import ENTRANTS, Case, Entrant
from benchmarks.training.ours import OURS
from benchmarks.training.ratings_splits import SplitName, ratings_split
from driftwheel.files import sha256_of

_STARS = {"rmse": "RMSE", "mae": "MAE"}
_RANKINGS = {
    "ndcg_at_10": "NDCG",
    "recall_at_10": "recall",
    "recall_at_20": "@20",
    "mrr_at_10": "MRR",
    "map_at_10": "MAP",
    "hit_rate_at_10": "hits",
    "coverage_at_10": "coverage",
    "popularity_at_10": "popularity",
}
"""Headings of the table; all are at 10 but one."""

_QUICK_RMSE, _QUICK_S = 0.871, 3.0
"""So good a model of R1 is to be trained in so many seconds."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """What ours are to reach whatever the libraries of the same run do."""

    case: Case
    metric: str
    relation: Literal[">=", "<="]
    bound: float
    model: str | None = None
    """None: the best of ours."""


_BOUNDS = (
    _Bound("R1", "rmse", "<=", 0.8695, "Driftwheel als"),  # plain factors and biases of ids
    _Bound("R1", "rmse", "<=", 0.856),
    _Bound("R1", "rmse", "<=", 0.840, "Driftwheel bayes, genre and year"),
    _Bound("R2", "rmse", "<=", 1.043),
    _Bound("R2 with fold-in", "rmse", "<=", 0.885),
    _Bound("R3", "ndcg_at_10", ">=", 0.095),
    _Bound("R3", "recall_at_20", ">=", 0.180),
)


def cases_of(name: SplitName) -> list[Case]:
    """The cases that a split is used for."""
    return [case for case in get_args(Case) if case.split()[0] == name]


def entrants_of(case: Case) -> list[Entrant]:
    """The libraries' and ours."""
    return [one for one in (*ENTRANTS, *OURS) if one.case == case]


def measure(
    name: SplitName,
    seeds: Sequence[int],
    on_run: Callable[[Run], None],
    only: Sequence[str] | None = None,
    *,
    again: Iterable[str] = (),
    cache: Path = CACHE,
) -> list[Run]:
    """Train and judge each entrant of a split with each seed; those without chance with the first alone. Each answer is kept
    as soon as it is there, and what is kept is not trained again.

    Args:
        on_run: Called with each run as soon as it is judged.
        only: Names of entrants; the others do not take part.
        again: Names of entrants that are trained although their answers are kept.
        cache: Where answers are kept.
    """
    split = ratings_split(name)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.npz"
        split.save(path)
        kept = Kept(sha256_of(path), folder=cache, again=frozenset(again))
        for entrant in (one for case in cases_of(name) for one in entrants_of(case)):
            if only and entrant.name not in only:
                continue
            python = python_of(entrant)
            for seed in seeds if entrant.chance else seeds[:1]:
                runs.append(ask(entrant, split, path, seed, python=python, kept=kept, **entrant.parameters))
                on_run(runs[-1])
    return runs


def summary(runs: Iterable[Run]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each case and name: means over seeds, with the deviations of the metrics."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.case, run.name), []).append(run)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (case, name), of_seeds in grouped.items():
        names = of_seeds[0].metrics
        found.setdefault(case, {})[name] = {
            "seeds": [run.seed for run in of_seeds],
            "parameters": dict(of_seeds[0].parameters),
            **{metric: statistics.mean(run.metrics[metric] for run in of_seeds) for metric in names},
            "deviation": {metric: statistics.pstdev(run.metrics[metric] for run in of_seeds) for metric in names},
            "training_s": statistics.mean(run.training_s for run in of_seeds),
            "peak_mib": max(run.peak_mib for run in of_seeds),
        }
    return found


def table(case: Case, found: dict[str, dict[str, Any]]) -> Table:
    """What was measured, with seconds of training and the most memory resident, and what others had measured before."""
    metrics = _RANKINGS if case == "R3" else _STARS
    made = Table("model", "seeds", *metrics.values(), "s", "MiB", "before", title=f"{case}: MovieLens")
    before = {one.name: one.before for one in entrants_of(case)}
    for name, one in found.items():
        numbers = [f"{one[metric]:.4f}" for metric in metrics]
        if len(one["seeds"]) > 1:
            numbers[0] += f" ±{one['deviation'][next(iter(metrics))]:.4f}"
        row = [*numbers, f"{one['training_s']:.1f}", f"{one['peak_mib']:.0f}", before[name]]
        made.add_row(name, str(len(one["seeds"])), *row)
    return made


def targets(found: dict[str, dict[str, dict[str, Any]]]) -> list[Target]:
    """Our best beside the best library of the same run, and what ours are to reach by themselves; for R1 also the shortest
    training to a good model.
    """
    wanted: list[Target] = []
    own = {(one.case, one.name) for one in OURS}
    for case, models in found.items():
        for metric, best, relation in _judged_by(case):
            ours = [one[metric] for name, one in models.items() if (case, name) in own]
            theirs = [one[metric] for name, one in models.items() if (case, name) not in own]
            if ours and theirs:
                wanted.append(Target(f"{case}: {metric} of our best", best(ours), relation, best(theirs)))
        quick = [one["training_s"] for name, one in models.items() if (case, name) in own and _is_quick(case, one)]
        if quick:
            wanted.append(Target(f"{case}: s of training to RMSE {_QUICK_RMSE}", min(quick), "<=", _QUICK_S))
    return wanted + [target for bound in _BOUNDS for target in _reached(bound, found.get(bound.case, {}))]


def _reached(bound: _Bound, models: dict[str, dict[str, Any]]) -> list[Target]:
    """A bound beside what was measured; nothing where that took no part."""
    names = [bound.model] if bound.model else [one.name for one in OURS if one.case == bound.case]
    values = [models[name][bound.metric] for name in names if name in models]
    best = min if bound.relation == "<=" else max
    who = bound.model or "our best"
    return (
        [Target(f"{bound.case}: {bound.metric} of {who}", best(values), bound.relation, bound.bound)] if values else []
    )


def _judged_by(case: str) -> list[tuple[str, Callable[[list[float]], float], Any]]:
    if case == "R3":
        return [("ndcg_at_10", max, ">="), ("recall_at_20", max, ">=")]
    return [("rmse", min, "<=")]


def _is_quick(case: str, one: dict[str, Any]) -> bool:
    return case == "R1" and one["rmse"] <= _QUICK_RMSE
