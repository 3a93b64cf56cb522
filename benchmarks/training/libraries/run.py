"""One model on one split, in a process and an environment of its own: reads a split, writes what came out."""

import argparse
import importlib
import json
from pathlib import Path

from benchmarks.training.libraries.contract import FUNCTIONS, Answer
from benchmarks.training.libraries.exchange import load_split, save_measured
from benchmarks.training.libraries.reporting import Process


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", help="of benchmarks.training")
    parser.add_argument("function", choices=FUNCTIONS)
    parser.add_argument("--split", type=Path, required=True, help="what RatingSplit.save wrote, or synthetic ratings")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parameters", type=json.loads, default={}, help="as JSON")
    parser.add_argument("--answer", type=Path, required=True, help="the npz file to write")
    arguments = parser.parse_args()
    function = getattr(importlib.import_module(f"benchmarks.training.{arguments.module}"), arguments.function)
    about = arguments.split if arguments.function == "stream" else load_split(arguments.split)
    process = Process()
    answer: Answer = function(about, arguments.seed, **arguments.parameters)
    save_measured(arguments.answer, process.measured(answer.values, answer.training_s))


if __name__ == "__main__":
    main()
