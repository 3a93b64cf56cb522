"""Workers, batches and delays of TorchServe with our handler: what the defaults of ``[torchserve]`` come from.

Run with ``python -m benchmarks.torchserve_sweep``. One TorchServe, configured as ``driftwheel torchserve up`` does, is given
the same version again and again, each time with other workers and batches, so that Java stays as quick as it has become.

Two loads: many calls at once, as direct clients send them, and few, as our own server sends them, which has made batches of
its own already. What serves many calls best is best; among what comes near to it, what keeps few calls waiting least.

TorchServe stops answering under load now and then. Then this one measurement is left out and said to be, TorchServe is started
anew and warmed up, and the rest goes on.
"""

import argparse
import itertools
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.models import make_factor_bundle
from benchmarks.rivals.base import FAULTS
from benchmarks.rivals.torchserve_swept import Choice, Swept
from benchmarks.tools.h2load import closed_loop, require_h2load
from benchmarks.tools.messages import Call, columns_of, json_of, prediction, predictions_call
from benchmarks.tools.probing import probe
from benchmarks.tools.report import add_results_option, console, write_json

WARM_UP_S = 15.0
"""Java compiles what runs often; after so long it is about as quick as it gets."""
SETTLE_S = 0.5
"""Of load before each case, for the worker."""


@dataclass(frozen=True, slots=True)
class Case:
    """A load."""

    name: str
    rows: int
    in_flight: int


CASES = (
    Case("1 pair, 64 at once", 1, 64),
    Case("1000 pairs, 64 at once", 1000, 64),
    Case("1000 pairs, 4 at once", 1000, 4),
)
MANY, FEW = CASES[:2], CASES[2]
NEAR = 0.9
"""Of the best; what is closer than that differs by chance."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One measurement, or the best of several."""

    choice: Choice
    case: str
    form: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of Java and the workers for each request."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A measurement that gave no numbers."""

    choice: Choice
    case: str
    reason: str


def main() -> None:
    """Measure, print, and write the results."""
    options = _options()
    require_h2load()
    if shutil.which("java") is None:
        sys.exit("TorchServe needs Java: install Debian's openjdk-17-jre-headless")
    choices = [
        *(Choice(workers, 1, 1) for workers in options.workers),
        *itertools.starmap(Choice, itertools.product(options.workers, options.batches, options.delays)),
    ]
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        swept = Swept(Path(folder), make_factor_bundle(Path(folder) / "models", 1))
        try:
            taken, left_out = _sweep(swept, choices, Path(folder), options)
            if not taken:
                sys.exit(f"TorchServe answered in no measurement: {left_out[-1].reason}")
            best = best_of(taken)
            forms = _forms(swept, best, Path(folder), options.seconds, left_out)
        finally:
            swept.stop()
    show(taken, best)
    _show_forms(forms)
    results = {"options": vars(options), "best": asdict(best)}
    results |= {"taken": [asdict(one) for one in taken], "forms": [asdict(one) for one in forms]}
    results |= {"left_out": [asdict(one) for one in left_out]}
    console().print(f"written to {write_json(options.results, 'torchserve_sweep', results)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="of each case in each round (default: 2)")
    parser.add_argument("--rounds", type=int, default=2, help="in which everything is tried once (default: 2)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--delays", type=int, nargs="+", default=[1, 2], help="ms")
    add_results_option(parser)
    return parser.parse_args()


def _sweep(
    swept: Swept, choices: Sequence[Choice], folder: Path, options: argparse.Namespace
) -> tuple[list[Taken], list[LeftOut]]:
    """The best of the rounds: what else runs on a machine only takes away."""
    found: dict[tuple[Choice, str], list[Taken]] = {}
    left_out: list[LeftOut] = []
    _warm_up(swept, folder)
    for number in range(options.rounds):
        shuffled = random.Random(number).sample(list(choices), len(choices))
        for position, choice in enumerate(shuffled, 1):
            console().print(f"round {number + 1}: {position} of {len(choices)}: {choice} …", style="dim")
            for case in CASES:
                try:
                    if case is CASES[0]:
                        swept.choose(choice)
                    one = _measure(swept, choice, case, "columns", folder, options.seconds)
                    found.setdefault((choice, case.name), []).append(one)
                except FAULTS as error:
                    left_out.append(LeftOut(choice, case.name, str(error).partition("\n")[0][:300]))
                    console().print(f"  left out: {left_out[-1]}", style="yellow")
                    swept.restart()
                    _warm_up(swept, folder)
                    swept.choose(choice)
    return [max(several, key=lambda one: one.requests_per_s) for several in found.values()], left_out


def _forms(swept: Swept, best: Choice, folder: Path, seconds: float, left_out: list[LeftOut]) -> list[Taken]:
    """The best choice by the form of requests, as far as TorchServe answers."""
    forms: list[Taken] = []
    try:
        swept.choose(best)
        for case, form in itertools.product(MANY, ("columns", "JSON")):
            forms.append(_measure(swept, best, case, form, folder, seconds))
    except FAULTS as error:
        left_out.append(LeftOut(best, "by form", str(error).partition("\n")[0][:300]))
        console().print(f"  left out: {left_out[-1]}", style="yellow")
    return forms


def _warm_up(swept: Swept, folder: Path) -> None:
    choice = Choice(1, 64, 2)
    swept.choose(choice)
    for case in MANY:
        _measure(swept, choice, case, "columns", folder, WARM_UP_S / 2)


def _measure(swept: Swept, choice: Choice, case: Case, form: str, folder: Path, seconds: float) -> Taken:
    call = _call(case.rows, form)
    _check(probe(swept.target, call), case.rows, form)
    for length in (SETTLE_S, seconds):
        result = closed_loop(
            swept.target,
            call,
            seconds=length,
            in_flight=case.in_flight,
            folder=folder,
            cpu_seconds=swept.cpu_seconds,
        )
    return Taken(choice, case.name, form, result.requests_per_s, result.p50_ms, result.p99_ms, result.server_cpu_us)


def _call(rows: int, form: str) -> Call:
    return predictions_call(columns_of(rows) if form == "columns" else json_of(rows), version="1")


def _check(answer: bytes, rows: int, form: str) -> None:
    body = prediction(answer)
    if form == "columns" and np.frombuffer(body, "<f4").shape != (rows,):
        raise RuntimeError(f"{len(body)} bytes came for {rows} pairs")
    if form == "JSON" and body.count(b",") != rows - 1:
        raise RuntimeError(f"not {rows} scores: {body[:200]!r}")


def best_of(taken: Sequence[Taken]) -> Choice:
    """What comes nearest to the best of the cases with many calls; of those that come about as near, the best with few."""
    rates = {(one.choice, one.case): one.requests_per_s for one in taken}
    choices = list(dict.fromkeys(one.choice for one in taken))
    tops = {case.name: max(rates.get((choice, case.name), 0.0) for choice in choices) for case in MANY}
    # What could not be measured counts as nothing; where no choice could be, all are as good.
    shares = {
        one: min(rates.get((one, name), 0.0) / top if top else 1.0 for name, top in tops.items()) for one in choices
    }
    near = [one for one in choices if shares[one] >= NEAR * max(shares.values())]
    return max(near, key=lambda one: rates.get((one, FEW.name), 0.0))


def show(taken: Sequence[Taken], best: Choice) -> None:
    """A row for each choice."""
    table = Table("workers", "batch size", "delay ms", title="Requests per second (p99 ms), best of the rounds")
    for case in CASES:
        table.add_column(case.name, justify="right")
    for choice in sorted({one.choice for one in taken}, key=lambda one: (one.workers, one.batch_size, one.delay_ms)):
        cells = [
            next(
                (
                    f"{n.requests_per_s:,.0f} ({n.p99_ms:.0f})"
                    for n in taken
                    if (n.choice, n.case) == (choice, one.name)
                ),
                "-",
            )
            for one in CASES
        ]
        delay = str(choice.delay_ms) if choice.batch_size > 1 else "-"
        style = "bold green" if choice == best else None
        table.add_row(str(choice.workers), str(choice.batch_size), delay, *cells, style=style)
    console().print(table)


def _show_forms(forms: Sequence[Taken]) -> None:
    table = Table("case", "form", "requests/s", "p99 ms", "CPU us", title="The best one, by the form of requests")
    for one in forms:
        table.add_row(one.case, one.form, f"{one.requests_per_s:,.0f}", f"{one.p99_ms:.1f}", f"{one.cpu_us:.0f}")
    console().print(table)


if __name__ == "__main__":
    main()
