"""The wheel turns by itself: MovieLens and Telco as traffic, served, watched, retrained and released with nobody touching it.

Run with ``python -m benchmarks.wheel``; the tables and the JSON hold every number. Takes some minutes. Exit code 1 where a
target is missed.

MovieLens's newest ratings are replayed from a cut date on; what the wheel answered since its first promotion is compared with a
model that an oracle trained on every rating before that moment. Of Telco, customers kept out of training come as they are, then
with a column that broke (which is only to be told), then with a price change (which is to be retrained for).
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json
from benchmarks.wheel import movielens, telco

QUALITY = 0.95
"""Of the oracle's, wanted at least."""


def main() -> None:
    """Turn, print, write the results."""
    options = _options()
    results: dict[str, Any] = {}
    targets: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="driftwheel-wheel-") as folder:
        if options.only != "movielens":
            pace = {"rows_per_s": options.rows_per_s, "ranks": options.ranks}
            phases = results["telco"] = telco.run(Path(folder) / "telco", rows=options.customers, **pace)
            targets += _telco_targets({one["phase"]: one for one in phases})
        if options.only != "telco":
            pace = {"rows_per_s": options.rows_per_s, "ranks": options.ranks}
            facts = results["movielens"] = movielens.run(Path(folder) / "movielens", share=options.share, **pace)
            targets += _movielens_targets(facts)
    _show(results)
    met = show_targets(targets)
    write_json(options.results, "wheel", {"options": vars(options), **results})
    sys.exit(not met)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("movielens", "telco"), help="one of the two")
    parser.add_argument(
        "--share", type=float, default=0.4, help="the newest ratings, which are replayed (default: 0.4)"
    )
    parser.add_argument("--customers", type=int, default=8000, help="sent in each phase (default: 8000)")
    parser.add_argument("--rows-per-s", type=float, default=400.0, help="the pace of the traffic (default: 400)")
    parser.add_argument("--ranks", type=int, default=2, help="processes that train (default: 2)")
    add_results_option(parser)
    return parser.parse_args()


def _movielens_targets(facts: dict[str, Any]) -> list[Target]:
    return [
        Target("MovieLens: failed calls", sum(facts["failed"].values()), "<=", 0),
        Target("MovieLens: promotions", facts["promotions"], ">=", 1),
        Target("MovieLens: quality, as a share of the oracle's", facts.get("quality", 0.0), ">=", QUALITY),
    ]


def _telco_targets(phases: dict[str, dict[str, Any]]) -> list[Target]:
    def retrains(name: str) -> int:
        return len(phases[name]["retrains"])

    return [
        Target("Telco: failed calls", sum(one["failed"] for one in phases.values()), "<=", 0),
        Target("Telco: retrains while nothing has changed", retrains("as they are"), "<=", 0),
        Target("Telco: retrains for a broken column", retrains("a broken column"), "<=", 0),
        Target("Telco: the broken column is told", "broken data" in phases["a broken column"]["statuses"], ">=", 1),
        Target("Telco: retrains for a price change", retrains("a price change"), ">=", 1),
        Target("Telco: promotions after a price change", phases["a price change"]["promotions"], ">=", 1),
    ]


def _show(results: dict[str, Any]) -> None:
    if facts := results.get("movielens"):
        table = Table("MovieLens, from its cut date on", "")
        for name, value in facts.items():
            table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
        console().print(table)
    if phases := results.get("telco"):
        table = Table("Telco", "rows", "decisions", "retrains", "promotions")
        for one in phases:
            retrains = ", ".join(one["retrains"]) or "none"
            table.add_row(one["phase"], str(one["rows"]), ", ".join(one["statuses"]), retrains, str(one["promotions"]))
        console().print(table)


if __name__ == "__main__":
    main()
