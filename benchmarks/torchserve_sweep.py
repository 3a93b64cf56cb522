"""Workers, batches and delays of TorchServe with our handler: what the defaults of ``[torchserve]`` come from.

Run with ``python -m benchmarks.torchserve_sweep``. One TorchServe, configured as ``driftwheel torchserve up`` does, is given
the same version again and again, each time with other workers and batches, so that Java stays as quick as it has become. Two
things differ from what ``up`` starts, for the sake of the measurement: it asks for no token, which h2load could only be given
on its command line, and its API for registering is on.

Two loads: many calls at once, as direct clients send them, and few, as our own server sends them, which has made batches of
its own already. What serves many calls best is best; among what comes near to it, what keeps few calls waiting least.
"""

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from rich.table import Table

from benchmarks.models import make_factor_bundle
from benchmarks.rivals.base import ServerProcess
from benchmarks.tools.h2load import closed_loop, require_h2load
from benchmarks.tools.messages import PREDICTIONS, Call, columns_of, json_of, prediction, predictions_call
from benchmarks.tools.probing import probe
from benchmarks.tools.processes import cpu_seconds
from benchmarks.tools.report import add_results_option, console, write_json
from driftwheel.bundle import Bundle
from driftwheel.files import sha256_of
from driftwheel.serving_settings import TorchServeSettings
from exporters.archive import write_archive
from serving.torchserve.configuration import PROPERTIES, ArchivedVersion, environment, properties
from serving.torchserve.instance import Plan, prepare
from serving.torchserve.lifecycle import plan_for
from serving.torchserve.ports import chosen_ports

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
class Choice:
    """What is tried."""

    workers: int
    batch_size: int
    delay_ms: int


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


class Swept:
    """A TorchServe that is given other workers and batches while it runs."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        settings = TorchServeSettings()
        archive = write_archive(bundle)
        plan = plan_for(settings, [ArchivedVersion("mf", 1, archive, sha256_of(archive))])
        self._ports = chosen_ports(settings)
        self._folder = prepare(folder / "runs", plan, self._ports).folder
        empty = properties(settings, self._ports, [])
        (self._folder / PROPERTIES).write_text(empty)
        self._archive = archive.name
        self._process = ServerProcess()
        self._launch(plan)
        self.target = f"127.0.0.1:{self._ports.grpc}"

    def _launch(self, plan: Plan) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="sweep-", dir=self._folder.parent))
        command = [*plan.command(scratch), "--disable-token-auth", "--enable-model-api"]
        variables = environment(os.environ, scratch)
        self._process.launch(command, self._folder / "console.log", env=variables, cwd=self._folder)
        self._process.await_answer(
            f"127.0.0.1:{self._ports.grpc}", Call(PREDICTIONS.replace("Predictions", "Ping"), b"")
        )

    def choose(self, choice: Choice) -> None:
        """Register the version anew."""
        if self._registered():
            self._manage("DELETE", "/models/mf/1")
        query = {"url": self._archive, "initial_workers": choice.workers, "synchronous": "true"}
        query |= {"batch_size": choice.batch_size, "max_batch_delay": choice.delay_ms, "response_timeout": 30}
        self._manage("POST", f"/models?{urlencode(query)}")

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        return cpu_seconds(self.pids())

    def pids(self) -> list[int]:
        """Java and the workers."""
        return self._process.pids()

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def _registered(self) -> bool:
        return b"mf-1.mar" in self._manage("GET", "/models")

    def _manage(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._ports.management}{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (loopback)
            return answer.read()


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
            taken = list(_sweep(swept, choices, Path(folder), options))
            best = best_of(taken)
            swept.choose(best)
            forms = [
                _measure(swept, best, case, form, Path(folder), options.seconds)
                for case, form in itertools.product(MANY, ("columns", "JSON"))
            ]
        finally:
            swept.stop()
    show(taken, best)
    _show_forms(forms)
    results = {"options": vars(options), "best": asdict(best)}
    results |= {"taken": [asdict(one) for one in taken], "forms": [asdict(one) for one in forms]}
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


def _sweep(swept: Swept, choices: Sequence[Choice], folder: Path, options: argparse.Namespace) -> Iterator[Taken]:
    """The best of the rounds: what else runs on a machine only takes away."""
    swept.choose(Choice(1, 64, 2))
    for case in MANY:
        _measure(swept, choices[0], case, "columns", folder, WARM_UP_S / 2)
    found: dict[tuple[Choice, str], list[Taken]] = {}
    for number in range(options.rounds):
        shuffled = random.Random(number).sample(list(choices), len(choices))
        for position, choice in enumerate(shuffled, 1):
            console().print(f"round {number + 1}: {position} of {len(choices)}: {choice} …", style="dim")
            swept.choose(choice)
            for case in CASES:
                one = _measure(swept, choice, case, "columns", folder, options.seconds)
                found.setdefault((choice, case.name), []).append(one)
    for several in found.values():
        yield max(several, key=lambda one: one.requests_per_s)


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
    tops = {case.name: max(rates[choice, case.name] for choice in choices) for case in MANY}
    shares = {one: min(rates[one, case.name] / tops[case.name] for case in MANY) for one in choices}
    near = [one for one in choices if shares[one] >= NEAR * max(shares.values())]
    return max(near, key=lambda one: rates[one, FEW.name])


def show(taken: Sequence[Taken], best: Choice) -> None:
    """A row for each choice."""
    table = Table("workers", "batch size", "delay ms", title="Requests per second (p99 ms), best of the rounds")
    for case in CASES:
        table.add_column(case.name, justify="right")
    for choice in sorted({one.choice for one in taken}, key=lambda one: (one.workers, one.batch_size, one.delay_ms)):
        cells = [
            f"{one.requests_per_s:,.0f} ({one.p99_ms:.0f})"
            for case in CASES
            for one in taken
            if one.choice == choice and one.case == case.name
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
