"""How often the drift job calls what has not changed, how soon it sees what has, and how many retrains a shift gets; and the
rules of others on the same windows.

Run with ``python -m benchmarks.drift``; the table and the JSON hold every number. Takes some minutes. Exit code 1 where a
target is missed. ``python -m benchmarks.drift.cost`` measures what one decision costs.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, get_args

from rich.table import Table
from scipy.special import chdtri

from benchmarks.drift.customers import Shift
from benchmarks.drift.rivals import RULE_NAMES
from benchmarks.drift.simulating import OURS, Job, Kind, run
from benchmarks.drift.wheel import DRIFT, RETRAIN
from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json

FALSE_RETRAINS: dict[Kind, float] = {"i.i.d.": 1.0, "daily cycle": 2.0, "MovieLens, resampled": 1.0}
"""Wanted at most, for each 1,000 windows."""
FALSE_RETRAINS_BOUND = 3.0
"""Likewise the upper end of a 95% interval."""

SHIFTS = (
    ("a mean, +0.2 sigma", Shift(mean=0.2), "in_balance", 0.95, 3.0),
    ("a tail of 5%", Shift(tail=0.05), "in_waiting", 0.95, 3.0),
    ("a mean, +0.1 sigma", Shift(mean=0.1), "in_balance", 0.8, None),
)
"""Shifts, the column that each is to be found in, the share that is, and the median of windows until then."""

WITHIN = 15
"""Windows of 2,000 rows until which a shift counts as found."""

_SHIFTED, _AGAIN = Shift(mean=0.4), Shift(mean=0.4, plan=0.3)
TRUE_SHIFTS: tuple[tuple[str, Kind, tuple[Shift, ...]], ...] = (
    ("inputs and predictions, twice", "i.i.d.", (_SHIFTED, _AGAIN)),
    ("the same on a daily cycle", "daily cycle", (_SHIFTED, _AGAIN)),
    ("labels get noisier", "i.i.d.", (Shift(noise=0.15),)),
)
"""Streams with shifts that each are to get one retrain."""

BROKEN: tuple[tuple[str, Kind, tuple[Shift, ...]], ...] = (
    ("a column is empty in half of the rows, and the rest shifts", "i.i.d.", (Shift(mean=0.4, empty=0.5),)),
)
"""Streams that are not to get any."""


def main() -> None:
    """Simulate, print, write the results."""
    options = _options()
    jobs = _jobs(options)
    rows = [
        *_stationary_rows(outcomes := _run(jobs, options.processes)),
        *_found_rows(outcomes),
        *_retrain_rows(outcomes),
    ]
    _show(rows)
    met = show_targets(_targets(rows))
    settings = {"drift": DRIFT.model_dump(), "retrain": RETRAIN.model_dump()}
    write_json(options.results, "drift", {"options": vars(options), "settings": settings, "rows": rows})
    sys.exit(not met)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="independent runs of everything (default: 10)")
    parser.add_argument("--windows", type=int, default=2000, help="without a change, of each seed (default: 2000)")
    parser.add_argument("--rival-windows", type=int, default=100, help="of them, for others' rules (default: 100)")
    parser.add_argument("--shifts", type=int, default=10, help="simulated of each kind and seed (default: 10)")
    parser.add_argument("--rival-shifts", type=int, default=3, help="of them, for others' rules (default: 3)")
    parser.add_argument("--apart", type=int, default=80, help="windows before and after a true shift (default: 80)")
    parser.add_argument("--quick", action="store_true", help="a small part of it, to see that it runs: some seconds")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help=f"side by side (default: {cores})")
    add_results_option(parser)
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.windows, options.rival_windows = 1, 20, 3
        options.shifts, options.rival_shifts, options.apart = 1, 1, 12
    return options


def _jobs(options: argparse.Namespace) -> list[Job]:
    jobs: list[Job] = []
    for seed in range(options.seeds):
        jobs += [
            Job(
                what="stationary",
                name=kind,
                kind=kind,
                seed=seed,
                windows=options.windows,
                rival_windows=options.rival_windows,
            )
            for kind in get_args(Kind)
        ]
        jobs += [
            Job(
                what="found",
                name=name,
                kind="i.i.d.",
                seed=seed,
                windows=WITHIN,
                runs=options.shifts,
                rival_runs=min(options.rival_shifts, options.shifts),
                shift=shift,
                column=column,
            )
            for name, shift, column, _, _ in SHIFTS
        ]
        jobs += [
            Job(
                what="retrains",
                name=name,
                kind=kind,
                seed=seed,
                windows=options.apart * (len(shifts) + 1),
                changes=tuple(((number + 1) * options.apart, shift) for number, shift in enumerate(shifts)),
            )
            for name, kind, shifts in (*TRUE_SHIFTS, *BROKEN)
        ]
    return jobs


def _run(jobs: Sequence[Job], processes: int) -> list[dict[str, Any]]:
    """What came of each job, in their order, the long ones first."""
    outcomes: dict[int, dict[str, Any]] = {}
    # With more threads than cores, those of BLAS mostly wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run, job): number for number, job in enumerate(jobs)}
        for done, future in enumerate(as_completed(waiting), start=1):
            job = jobs[waiting[future]]
            outcomes[waiting[future]] = future.result()
            print(f"{done} of {len(jobs)}: {job.what}, {job.name}, seed {job.seed}", flush=True)
    return [outcomes[number] for number in range(len(jobs))]


def _of(outcomes: Sequence[dict[str, Any]], what: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in outcomes:
        if one["what"] == what:
            found.setdefault(one["name"], []).append(one)
    return found


def _stationary_rows(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, runs in _of(outcomes, "stationary").items():
        calls = {rule: sum(one["calls"].get(rule, 0) for one in runs) for rule in (OURS, *RULE_NAMES)}
        seen = {rule: sum(one["windows"].get(rule, 0) for one in runs) for rule in (OURS, *RULE_NAMES)}
        retrains = sum(one["retrains"] for one in runs)
        rows.append(
            {
                "what": "stationary",
                "name": name,
                "windows": seen,
                "calls_per_1000": {rule: 1000 * calls[rule] / seen[rule] for rule in calls if seen[rule]},
                "retrains": retrains,
                "retrains_per_1000": 1000 * retrains / seen[OURS],
                "retrains_per_1000_at_most": 1000 * _poisson_bound(retrains) / seen[OURS],
            }
        )
    return rows


def _poisson_bound(events: int) -> float:
    """The upper end of the exact two-sided 95% interval of a Poisson mean (Garwood 1936)."""
    return float(chdtri(2 * (events + 1), 0.025)) / 2


def _found_rows(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, runs in _of(outcomes, "found").items():
        when = {rule: sorted(at for one in runs for at in one["found"].get(rule, ())) for rule in (OURS, *RULE_NAMES)}
        rows.append(
            {
                "what": "found",
                "name": name,
                "shifts": len(when[OURS]),
                "found": {rule: sum(at > 0 for at in times) / len(times) for rule, times in when.items()},
                "median_windows": {rule: _median([at or float("inf") for at in times]) for rule, times in when.items()},
            }
        )
    return rows


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def _retrain_rows(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, runs in _of(outcomes, "retrains").items():
        after = [count for one in runs for count in one["retrains"][1:]]
        rows.append(
            {
                "what": "retrains",
                "name": name,
                "before": sum(one["retrains"][0] for one in runs),
                "shifts": len(after),
                "exactly_one": sum(count == 1 for count in after) / len(after),
                "counts": after,
            }
        )
    return rows


def _targets(rows: Sequence[dict[str, Any]]) -> list[Target]:
    targets: list[Target] = []
    by_name = {row["name"]: row for row in rows}
    for kind, most in FALSE_RETRAINS.items():
        row = by_name[kind]
        targets.append(Target(f"false retrains in 1,000 windows: {kind}", row["retrains_per_1000"], "<=", most))
        bound = row["retrains_per_1000_at_most"]
        targets.append(Target(f"upper end of their 95% interval: {kind}", bound, "<=", FALSE_RETRAINS_BOUND))
    for name, _, _, share, median in SHIFTS:
        row = by_name[name]
        targets.append(Target(f"found within {WITHIN} windows: {name}", row["found"][OURS], ">=", share))
        if median is not None:
            targets.append(Target(f"median windows until then: {name}", row["median_windows"][OURS], "<=", median))
    for name, _, _ in TRUE_SHIFTS:
        targets.append(Target(f"shifts with exactly one retrain: {name}", by_name[name]["exactly_one"], ">=", 1.0))
        targets.append(Target(f"retrains before the first shift: {name}", by_name[name]["before"], "<=", 0))
    for name, _, _ in BROKEN:
        retrains = by_name[name]["before"] + sum(by_name[name]["counts"])
        targets.append(Target(f"retrains on broken data: {name}", retrains, "<=", 0))
    return targets


def _show(rows: Sequence[dict[str, Any]]) -> None:
    names = (OURS, *RULE_NAMES)
    calls = Table("windows without a change", *names, "our retrains", title="Called, of 1,000 windows")
    found = Table("shift", *names, title=f"Found within {WITHIN} windows (median windows until then)")
    retrain_table = Table("stream", "shifts", "retrains that each got", "before the first", title="Retrains")
    for row in rows:
        if row["what"] == "stationary":
            cells = [f"{row['calls_per_1000'][name]:.2f}" if name in row["calls_per_1000"] else "-" for name in names]
            most = f"{row['retrains_per_1000']:.2f} (at most {row['retrains_per_1000_at_most']:.2f})"
            calls.add_row(f"{row['name']}, {row['windows'][OURS]:,}", *cells, most)
        elif row["what"] == "found":
            found.add_row(row["name"], *(f"{row['found'][n]:.1%} ({row['median_windows'][n]:.0f})" for n in names))
        else:
            times = Counter(row["counts"])
            got = ", ".join(f"{retrains}: {times[retrains]} times" for retrains in sorted(times))
            retrain_table.add_row(row["name"], str(row["shifts"]), got, str(row["before"]))
    for table in (calls, found, retrain_table):
        console().print(table)


if __name__ == "__main__":
    main()
