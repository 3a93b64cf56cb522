"""``python -m benchmarks.training --split C1``: models of ours beside those of open libraries, on the same splits."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json
from benchmarks.training import churn, ratings, throughput
from benchmarks.training.asking import Run
from benchmarks.training.libraries.customers import LIBRARIES


def _show(one: churn.Measured) -> None:
    numbers = ", ".join(f"{name} {one.metrics[name]:.4f}" for name in ("auc", "log_loss", "ece"))
    print(f"{one.estimator}, seed {one.seed}: {numbers} ({one.seconds:.0f} s, at {one.at})", flush=True)


def _show_run(run: Run) -> None:
    numbers = ", ".join(f"{name} {run.metrics[name]:.4f}" for name in ("rmse", "ndcg_at_10") if name in run.metrics)
    cost = f"training: {run.training_s:.1f} s, at {run.at}"
    print(f"{run.case}, {run.name}, seed {run.seed}: {numbers} ({cost})", flush=True)


def _churn(arguments: argparse.Namespace) -> list[Target]:
    with tempfile.TemporaryDirectory() as folder:
        measured = churn.measure(
            arguments.estimators,
            arguments.libraries,
            arguments.seeds,
            Path(folder),
            _show,
            threads=arguments.threads,
            again=_again(arguments),
        )
    found = churn.summary(measured)
    console().print(churn.table(found))
    runs = [dataclasses.asdict(one) for one in measured]
    results = {"split": arguments.split, "target": churn.TARGET}
    write_json(arguments.results, "training_c1", {**results, "summary": found, "runs": runs})
    return churn.targets(found)


def _ratings(arguments: argparse.Namespace) -> list[Target]:
    runs = ratings.measure(arguments.split, arguments.seeds, _show_run, arguments.models, again=_again(arguments))
    found = ratings.summary(runs)
    for case in ratings.cases_of(arguments.split):
        if case in found:
            console().print(ratings.table(case, found[case]))
    results = {"split": arguments.split, "summary": found, "runs": [dataclasses.asdict(run) for run in runs]}
    write_json(arguments.results, f"training_{arguments.split.lower()}", results)
    return ratings.targets(found)


def _throughput(arguments: argparse.Namespace) -> list[Target]:
    runs, about = throughput.measure(arguments.rows, arguments.seeds[0], _show_run, arguments.models)
    found = throughput.rated(runs, about)
    console().print(throughput.table(found, about))
    results = {"split": "throughput", "ratings": about, "summary": found}
    write_json(arguments.results, "training_throughput", results)
    return throughput.targets(found)


def _again(arguments: argparse.Namespace) -> list[str]:
    """Who is trained although there is an answer."""
    return list(_EVERYBODY) if arguments.again == [] else arguments.again or []


_ESTIMATORS = ["network", "forest", "boosting"]
_RATED = [one.name for one in (*ratings.ENTRANTS, *ratings.OURS)]
_EVERYBODY = dict.fromkeys([*_RATED, *LIBRARIES, *_ESTIMATORS])
_SPLITS = {"C1": _churn, "R1": _ratings, "R2": _ratings, "R3": _ratings, "throughput": _throughput}


def _parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=list(_SPLITS), default="C1")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46], help="throughput: the first alone"
    )
    churn_options = parser.add_argument_group("churn")
    churn_options.add_argument("--estimators", choices=_ESTIMATORS, nargs="*", default=_ESTIMATORS)
    churn_options.add_argument(
        "--libraries", choices=list(LIBRARIES), nargs="*", default=list(LIBRARIES), metavar="NAME"
    )
    churn_options.add_argument(
        "--threads", type=int, default=1, help="the models are small: more threads wait for each other"
    )
    rating_options = parser.add_argument_group("ratings")
    rating_options.add_argument(
        "--models", choices=list(dict.fromkeys(_RATED)), nargs="+", metavar="NAME", help="default: all of the split"
    )
    rating_options.add_argument("--rows", type=int, default=5_000_000, help="throughput: how many synthetic ratings")
    parser.add_argument(
        "--again",
        choices=list(_EVERYBODY),
        nargs="*",
        metavar="NAME",
        help="train these models although their answers are kept in build/training; without names: all. Throughput is always "
        "measured anew",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where a target is missed, or none was measured"
    )
    add_results_option(parser)
    return parser.parse_args(words)


def main() -> None:
    """Measure, print the tables and write the JSON."""
    arguments = _parsed()
    wanted = _SPLITS[arguments.split](arguments)
    met = show_targets(wanted) and bool(wanted)
    sys.exit(1 if arguments.strict and not met else 0)


if __name__ == "__main__":
    main()
