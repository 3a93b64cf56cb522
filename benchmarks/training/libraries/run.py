"""One model on one split, in a process and an environment of its own: reads a split, writes what came out."""

import argparse
import importlib
import json
import resource
from pathlib import Path

from benchmarks.training.libraries.contract import FUNCTIONS, Answer
from benchmarks.training.libraries.exchange import Measured, load_split, save_measured


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
    answer: Answer = function(about, arguments.seed, **arguments.parameters)
    save_measured(arguments.answer, Measured(answer.values, answer.training_s, _peak_mib()))


def _peak_mib() -> float:
    """The most memory that this process, or the largest of those that it started, has had resident.

    Its own comes from ``/proc``: what ``getrusage`` says of a process includes what the one that started it had.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    own_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


if __name__ == "__main__":
    main()
