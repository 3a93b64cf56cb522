"""TorchServe as it comes, TorchServe with our handler and settings, and our own engine, in one run.

Run with ``python -m benchmarks.torchserve``. What has to be shown: our archive, configured as ``driftwheel torchserve up`` does
by default, answers at least 8 times as many requests a second as a plain handler under TorchServe's defaults, and at least 90%
of what the best does that is tuned by hand: other workers and batches for our handler, and a handler of its own that checks
nothing. docs/benchmarks.md says who is compared and how.

The best of a sweep owes a part of its place to chance. So what a sweep finds best is measured again, in turn with ours, and
these numbers count.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
from rich.table import Table

from benchmarks.load import CASES, Taken, chart, measure, median_of, show
from benchmarks.rivals.base import WARM_UP_S, Rival, Workplace
from benchmarks.rivals.driftwheel import Driftwheel
from benchmarks.rivals.entrants import FULL, prepare
from benchmarks.rivals.torchserve import TorchServe
from benchmarks.rivals.torchserve_ours import BehindTheDoor, Chosen, ChosenJson
from benchmarks.rivals.torchserve_plain import BareTorchServe, PlainTorchServe
from benchmarks.tools.h2load import require_h2load
from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json
from benchmarks.torchserve_sweep import Choice, Swept
from driftwheel.serving_settings import TorchServeSettings

DEFAULTS, BARE, BY_HAND, OURS, OURS_JSON, DOOR, IN_PROCESS = (
    "TorchServe, defaults",
    "TorchServe, defaults, no BaseHandler",
    "TorchServe, tuned by hand",
    "ours on TorchServe",
    "ours on TorchServe, JSON",
    "ours behind the door",
    f"{FULL}, in process",
)
TIMES_DEFAULTS, SHARE_OF_BEST = 8.0, 0.9

SETTLE_S = 0.5
"""Of load before a choice of the sweep is measured, for its new worker."""


@dataclass(frozen=True, slots=True)
class Duel:
    """Ours and the best of the sweep for one case, in turn."""

    case: str
    best: str
    shares: tuple[float, ...]
    """Ours of the best's requests per second, each time."""

    @property
    def share(self) -> float:
        """The median; 1 where ours is the best."""
        return statistics.median(self.shares) if self.shares else 1.0


def main() -> None:
    """Measure, print, and write the results; exit code 1 where a target is missed and ``--strict`` was given."""
    options = _options()
    require_h2load()
    if not TorchServe().installed:
        sys.exit('TorchServe is not here: pip install -e ".[torchserve]", and Debian\'s openjdk-17-jre-headless')
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = prepare(Path(folder))
        taken = [one for number in range(options.rounds) for one in _round(place, number, options)]
        for name, case in itertools.product((DEFAULTS, BARE, BY_HAND, DOOR), CASES):
            if not any((one.server, one.case) == (name, case) for one in taken):
                sys.exit(f"{name} stopped answering in every round ({case}): run it again")
        swept, duels = _sweep(place, options)
    medians, sweep = median_of(taken), median_of(swept)
    targets = list(targets_of(medians, duels))
    show(medians, subject=OURS)
    show_sweep(sweep)
    met = show_targets(targets)
    results = {"options": vars(options), "medians": [asdict(one) for one in medians]}
    results |= {"sweep": [asdict(one) for one in sweep], "duels": [asdict(one) for one in duels]}
    results |= {"targets": [asdict(one) for one in targets], "rounds": [asdict(one) for one in taken]}
    path = write_json(options.results, "torchserve", results)
    chart(medians, path.with_suffix(".png"), title="TorchServe's gRPC and ModelInfer, closed loop")
    console().print(f"written to {options.results}: {path.name}, {path.with_suffix('.png').name}")
    sys.exit(int(options.strict and not met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="of each case in each round (default: 2)")
    parser.add_argument("--warm-up", type=float, default=30, help="seconds for all that has Java in it (default: 30)")
    parser.add_argument("--rounds", type=int, default=2, help="in which each server runs once (default: 2)")
    parser.add_argument("--in-flight", type=int, default=64, help="calls under way at once (default: 64)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of the sweep")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64], help="of the sweep")
    parser.add_argument("--duels", type=int, default=4, help="of ours with the best of the sweep (default: 4)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    add_results_option(parser)
    return parser.parse_args()


def _round(place: Workplace, number: int, options: argparse.Namespace) -> Iterator[Taken]:
    """Each contestant once."""
    console().print(f"round {number + 1} of {options.rounds}", style="dim")
    for rival in (PlainTorchServe(DEFAULTS), BareTorchServe(BARE), TorchServe(BY_HAND), BehindTheDoor(DOOR)):
        yield from _unless_it_hangs(_cases(rival, _workplace(place), options.warm_up, options))
    yield from _cases(Driftwheel(IN_PROCESS), _workplace(place), WARM_UP_S, options)
    own = _workplace(place)
    swept = Swept(own.folder, place.bundle)
    try:
        yield from _cases(Chosen(OURS, swept, default_choice()), own, options.warm_up, options)
        yield from _cases(ChosenJson(OURS_JSON, swept, default_choice()), own, WARM_UP_S, options)
    finally:
        swept.stop()


def _unless_it_hangs(cases: Iterator[Taken]) -> Iterator[Taken]:
    """What was measured until TorchServe stopped answering, which it does now and then under one round's load; it is said, and
    the other rounds count.
    """
    try:
        yield from cases
    except (grpc.RpcError, RuntimeError) as error:
        console().print(f"  stopped answering, left out of this round: {str(error).splitlines()[0]}", style="yellow")


def _sweep(place: Workplace, options: argparse.Namespace) -> tuple[list[Taken], list[Duel]]:
    """All choices on one TorchServe, so that Java is as warm for each: once to and once fro. Then ours beside the best."""
    console().print("sweep", style="dim")
    own = _workplace(place)
    swept = Swept(own.folder, place.bundle)
    try:
        default, others = default_choice(), itertools.product(options.workers, options.batches)
        choices = dict.fromkeys([default, *(Choice(*one, default.delay_ms) for one in others)])
        rivals = [Chosen(OURS if one == default else name_of(one), swept, one) for one in choices]
        list(_cases(rivals[0], own, options.warm_up, options))
        taken = [one for rival in (*rivals, *reversed(rivals)) for one in _cases(rival, own, SETTLE_S, options)]
        return taken, [_duel(case, rivals, taken, own, options) for case in CASES]
    finally:
        swept.stop()


def _duel(
    case: str, rivals: Sequence[Chosen], taken: Sequence[Taken], own: Workplace, options: argparse.Namespace
) -> Duel:
    ours = rivals[0]
    best = max(
        rivals,
        key=lambda rival: sum(one.requests_per_s for one in taken if (one.server, one.case) == (rival.name, case)),
    )
    if best is ours:
        return Duel(case, OURS, ())
    shares: list[float] = []
    for number in range(options.duels):
        rates: dict[str, float] = {}
        for rival in (ours, best) if number % 2 else (best, ours):
            (one,) = _cases(rival, own, SETTLE_S, options, [case])
            rates[rival.name] = one.requests_per_s
        shares.append(rates[ours.name] / rates[best.name])
    return Duel(case, best.name, tuple(shares))


def _cases(
    rival: Rival, own: Workplace, warm_up_s: float, options: argparse.Namespace, cases: Sequence[str] = tuple(CASES)
) -> Iterator[Taken]:
    """Start one server, measure, stop it. The first case warms Java up for the others."""
    console().print(f"  {rival.name} …", style="dim")
    try:
        rival.start(own)
        for case in cases:
            yield measure(rival, case, own, warm_up_s=warm_up_s, seconds=options.seconds, in_flight=options.in_flight)
            warm_up_s = min(warm_up_s, WARM_UP_S)
    finally:
        rival.stop()


def _workplace(place: Workplace) -> Workplace:
    return Workplace(Path(tempfile.mkdtemp(dir=place.folder)), place.models, place.bundle)


def default_choice() -> Choice:
    """What ``driftwheel torchserve up`` does unless told otherwise."""
    own = TorchServeSettings()
    return Choice(own.workers_per_version, own.batch_size, own.max_batch_delay_ms)


def name_of(choice: Choice) -> str:
    """How a choice of the sweep is called."""
    return f"{choice.workers} worker{'s' * (choice.workers > 1)}, batches of {choice.batch_size}"


def targets_of(medians: Sequence[Taken], duels: Sequence[Duel]) -> Iterator[Target]:
    """For each case, ours beside TorchServe's defaults, and beside what is tuned by hand."""
    for case in CASES:
        rates = {one.server: one.requests_per_s for one in medians if one.case == case}
        yield Target(f"{case}: requests/s, of {DEFAULTS}", rates[OURS] / rates[DEFAULTS], ">=", TIMES_DEFAULTS)
        yield Target(f"{case}: requests/s, of {BY_HAND}", rates[OURS] / rates[BY_HAND], ">=", SHARE_OF_BEST)
        for duel in duels:
            if duel.case == case:
                name = f"{case}: requests/s, of the best of the sweep ({duel.best})"
                yield Target(name, duel.share, ">=", SHARE_OF_BEST)


def show_sweep(medians: Sequence[Taken]) -> None:
    """A row for each choice."""
    table = Table("our handler", title="The sweep: requests per second (p99 ms)")
    for case in CASES:
        table.add_column(case, justify="right")
    for name in dict.fromkeys(one.server for one in medians):
        cells = [f"{one.requests_per_s:,.0f} ({one.p99_ms:.0f})" for one in medians if one.server == name]
        table.add_row(name, *cells, style="bold green" if name == OURS else None)
    console().print(table)


if __name__ == "__main__":
    main()
