"""How many synthetic ratings a second each trains on, and how well it knows them afterwards."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.tools.report import Target
from benchmarks.training.asking import Run, ask, python_of
from benchmarks.training.libraries.exchange import load_split
from benchmarks.training.ratings import entrants_of, summary
from benchmarks.training.synthetic import ABOUT, Synthetic, write_synthetic

CACHE = Path(__file__).parents[2] / "build" / "synthetic"
"""Where ratings are kept once they were made; git passes over it."""

_RATE, _SCALING = 1.5e6, 1.6
"""What is wanted of two ranks: ratings a second, and times the rate of one."""

_EQUAL = 1.002
"""Two errors are equal where the larger is at most so many times the smaller."""


def measure(
    rows: int, seed: int, on_run: Callable[[Run], None], only: Sequence[str] | None = None
) -> tuple[list[Run], dict[str, Any]]:
    """Train each on the same ratings; the runs, and what is known of the ratings."""
    wanted = Synthetic(rows=rows)
    folder = write_synthetic(CACHE / f"{rows}-{wanted.seed}", wanted)
    about = json.loads((folder / ABOUT).read_text())
    split = load_split(folder)
    runs: list[Run] = []
    for entrant in entrants_of("throughput"):
        if only and entrant.name not in only:
            continue
        runs.append(ask(entrant, split, folder, seed, python=python_of(entrant), **entrant.parameters))
        on_run(runs[-1])
    return runs, about


def rated(runs: Sequence[Run], about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each entrant what ``ratings.summary`` gives, its ``passes`` over the ratings and its ``ratings_per_s``."""
    found = summary(runs).get("throughput", {})
    passes = {one.name: one.passes for one in entrants_of("throughput")}
    for name, one in found.items():
        rows = one["parameters"].get("rows", about["train_rows"])
        one["passes"] = one["parameters"][passes[name]]
        one["ratings_per_s"] = rows * one["passes"] / one["training_s"]
    return found


def table(found: dict[str, dict[str, Any]], about: dict[str, Any]) -> Table:
    """Rates, errors and memory."""
    wanted = about["wanted"]
    title = f"Throughput: {wanted['rows']:,} ratings, {wanted['users']:,} users, {wanted['items']:,} items, 64 factors"
    made = Table("model", "ratings/s", "passes", "training s", "test RMSE", "peak MiB", "before", title=title)
    before = {one.name: one.before for one in entrants_of("throughput")}
    for name, one in found.items():
        rmse = f"{one['rmse']:.4f}" if "rmse" in one else ""
        numbers = (f"{one['ratings_per_s']:,.0f}", str(one["passes"]), f"{one['training_s']:.1f}", rmse)
        made.add_row(name, *numbers, f"{one['peak_mib']:.0f}", before[name])
    made.add_row("the planted truth", "", "", "", f"{about['rmse_of_the_truth']:.4f}", "", "")
    return made


def targets(found: dict[str, dict[str, Any]]) -> list[Target]:
    """Of ours with one and two ranks, where both took part: rate, scaling, and an error no worse than the best library's."""
    own = {one.name: one.parameters.get("ranks") for one in entrants_of("throughput") if not one.is_library}
    by_ranks = {own[name]: one for name, one in found.items() if name in own}
    theirs = [one["rmse"] for name, one in found.items() if name not in own and "rmse" in one]
    if not {1, 2} <= set(by_ranks) or not theirs:
        return []
    one, two = by_ranks[1], by_ranks[2]
    return [
        Target("ratings/s with two ranks", two["ratings_per_s"], ">=", _RATE),
        Target("two ranks beside one", two["ratings_per_s"] / one["ratings_per_s"], ">=", _SCALING),
        Target("test RMSE beside the best library's", two["rmse"] / min(theirs), "<=", _EQUAL),
    ]
