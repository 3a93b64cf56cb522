"""How often the canary's judge aborts what is as good, and how soon it sees what is not; and so for the rules of others.

Run with ``python -m benchmarks.canary``; the table and the JSON hold every number. Takes some minutes. Exit code 1 where a
target is missed.
"""

import argparse
import sys
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.canary import churn, judging, rivals
from benchmarks.canary.streams import World, looks
from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json

LOOKS = 50
STEPS = 5

EQUAL = (
    (World("A/A, 1% errors, 100 requests a step"), 100),
    (World("A/A, 1% errors, 1k requests a step"), 1000),
    (World("A/A, 1% errors, 10k requests a step"), 10_000),
    (World("A/A, 0.1% errors, 10k requests a step", errors=(0.001, 0.001)), 10_000),
    (World("A/A, bursts of latency, 1k requests a step", errors=(0.0, 0.0), bursts=True), 1000),
)
"""Releases that are as good as stable, and the requests of each arm in each of five steps."""

WORSE = (
    (World("errors 0.1% -> 0.6%", errors=(0.001, 0.006)), 20_000, 0.95),
    (World("errors 1% -> 1.5%", errors=(0.01, 0.015)), 20_000, 0.95),
    (World("p99 +25%", slower=1.25), 20_000, 0.95),
    (World("p99 +25%, 1,000 requests a second", slower=1.25, per_slice=250), 20_000, 0.95),
    (World("rating RMSE +2%", rmse=1.02), 20_000, 0.9),
    (World("NaN in 20% of the answers", not_finite=0.2), 100, 1.0),
)
"""Releases that are not, the requests of each arm within which they are to be aborted, and the share that is."""

CHURN_LABELS = 20_000
"""Labelled predictions of a churn release, all of which both versions answered."""

RIVAL_NAMES = ("Argo thresholds", "Flagger thresholds", "Kayenta Mann-Whitney")


def main() -> None:
    """Simulate, print, write the results."""
    options = _options()
    rows = [_row(world, STEPS * step // LOOKS, options, options.releases) for world, step in EQUAL]
    rows += [_row(world, within // LOOKS, options, options.worse_releases) for world, within, _ in WORSE]
    rows += [_churn_row(options, worse=worse) for worse in (False, True)]
    _show(rows)
    targets = _targets(rows)
    met = show_targets(targets)
    write_json(
        options.results, "canary", {"options": vars(options), "rows": rows, "settings": judging.SETTINGS.model_dump()}
    )
    sys.exit(not met)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=10_000, help="simulated where both are equal (default: 10000)")
    parser.add_argument("--worse-releases", type=int, default=2000, help="simulated of each fault (default: 2000)")
    parser.add_argument("--rival-releases", type=int, default=300, help="of them, for others' rules (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of chance (default: 0)")
    add_results_option(parser)
    return parser.parse_args()


def _row(world: World, per_look: int, options: argparse.Namespace, releases: int) -> dict[str, Any]:
    """One line of the table: what each rule did with one kind of release."""

    def stream(count: int) -> Any:
        rng = np.random.default_rng(options.seed)
        return looks(world, rng, releases=count, count=LOOKS, per_look=per_look)

    outcome = judging.run(stream(releases), releases=releases, rng=np.random.default_rng(options.seed + 1))
    few = min(options.rival_releases, releases)
    shape = {"releases": few, "per_look": per_look}
    others = (
        rivals.thresholds(stream(few), **shape, success=rivals.ARGO_SUCCESS, failures=rivals.ARGO_FAILURE_LIMIT + 1),
        rivals.thresholds(stream(few), **shape, success=rivals.FLAGGER_SUCCESS, failures=rivals.FLAGGER_THRESHOLD),
        rivals.kayenta(stream(few), **shape),
    )
    return {
        "name": world.name,
        "requests": LOOKS * per_look,
        "driftwheel": _summary(outcome.aborted_at),
        "checks": dict(Counter(outcome.checks)),
        "early_verdicts": outcome.early_verdicts,
        "judged": outcome.judged,
        **{name: _summary(aborted) for name, aborted in zip(RIVAL_NAMES, others, strict=True)},
    }


def _churn_row(options: argparse.Namespace, *, worse: bool) -> dict[str, Any]:
    rng, releases = np.random.default_rng(options.seed), options.worse_releases if worse else options.releases
    outcome = churn.run(rng, worse=worse, releases=releases, looks=LOOKS, per_look=CHURN_LABELS // LOOKS)
    lost = float(np.mean(outcome.areas))
    return {
        "name": f"churn AUC -{lost:.3f}" if worse else "A/A, churn in shadow",
        "requests": CHURN_LABELS,
        "driftwheel": _summary(outcome.aborted_at),
        "checks": dict(Counter(outcome.checks)),
        "judged": outcome.judged,
        "auc_lost": lost,
    }


def _summary(aborted_at: NDArray[np.int64]) -> dict[str, float | None]:
    found = aborted_at[aborted_at > 0]
    return {
        "releases": len(aborted_at),
        "aborted": float(np.mean(aborted_at > 0)),
        "median_requests": float(np.median(found)) if len(found) else None,
        "most_requests": float(found.max()) if len(found) else None,
    }


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    by_name = {row["name"]: row for row in rows}
    targets = [Target(f"aborted: {w.name}", by_name[w.name]["driftwheel"]["aborted"], "<=", 0.01) for w, _ in EQUAL]
    targets += [
        Target(f"aborted within {within}: {w.name}", by_name[w.name]["driftwheel"]["aborted"], ">=", share)
        for w, within, share in WORSE
    ]
    targets.append(
        Target("verdicts below the minimum sample", sum(row.get("early_verdicts", 0) for row in rows), "<=", 0)
    )
    equal, worse = rows[-2:]
    targets.append(Target(f"aborted: {equal['name']}", equal["driftwheel"]["aborted"], "<=", 0.01))
    return [
        *targets,
        Target(f"aborted within {CHURN_LABELS}: {worse['name']}", worse["driftwheel"]["aborted"], ">=", 0.9),
    ]


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "releases", "requests of each arm", "Driftwheel", *RIVAL_NAMES, title="Aborted (median requests until then)"
    )
    for row in rows:
        cells = [_cell(row[name]) if name in row else "-" for name in ("driftwheel", *RIVAL_NAMES)]
        table.add_row(row["name"], f"{row['requests']:,}", *cells)
    console().print(table)


def _cell(summary: dict[str, Any]) -> str:
    median = summary["median_requests"]
    return f"{summary['aborted']:.2%}" + (f" ({median:,.0f})" if median else "")


if __name__ == "__main__":
    main()
