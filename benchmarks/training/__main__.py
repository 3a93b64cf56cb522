"""``python -m benchmarks.training --split C1``: models of ours on the splits that open libraries were measured on."""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch

from benchmarks.tools.report import add_results_option, console, write_json
from benchmarks.training import churn


def _show(one: churn.Measured) -> None:
    numbers = ", ".join(f"{name} {one.metrics[name]:.4f}" for name in ("auc", "log_loss", "ece"))
    print(f"{one.estimator}, seed {one.seed}: {numbers} ({one.seconds:.0f} s)", flush=True)


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=["C1"], default="C1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    names = ["network", "forest", "boosting"]
    parser.add_argument("--estimators", choices=names, nargs="+", default=names)
    parser.add_argument("--threads", type=int, default=1, help="the models are small: more threads wait for each other")
    add_results_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        measured = churn.measure(arguments.estimators, arguments.seeds, Path(folder), _show)
    found = churn.summary(measured)
    console().print(churn.table(found))
    runs = [dataclasses.asdict(one) for one in measured]
    results = {"split": arguments.split, "target": churn.TARGET, "published": churn.PUBLISHED}
    write_json(arguments.results, "training_c1", {**results, "summary": found, "runs": runs})


if __name__ == "__main__":
    main()
