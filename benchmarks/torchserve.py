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
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.load import CASES, Taken, chart, median_of, show
from benchmarks.rivals.base import FAULTS, WARM_UP_S, Workplace
from benchmarks.rivals.driftwheel import Driftwheel
from benchmarks.rivals.entrants import FULL, prepare
from benchmarks.rivals.torchserve import TorchServe
from benchmarks.rivals.torchserve_ours import BehindTheDoor, Chosen, ChosenJson
from benchmarks.rivals.torchserve_plain import PlainOverGrpc, PlainTorchServe
from benchmarks.rivals.torchserve_swept import Choice, Swept
from benchmarks.tools.h2load import require_h2load
from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json
from benchmarks.torchserve_runs import Missed, Runs, own_folder
from driftwheel.serving_settings import TorchServeSettings

DEFAULTS, OVER_GRPC, BY_HAND, OURS, OURS_JSON, DOOR, IN_PROCESS = (
    "TorchServe, defaults",
    "TorchServe, defaults, over gRPC",
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
    """Ours of the best's requests per second, each time that both could be measured."""

    @property
    def share(self) -> float:
        """The median; 1 where ours is the best, not a number where nothing was measured."""
        if self.best == OURS:
            return 1.0
        return statistics.median(self.shares) if self.shares else math.nan


def main() -> None:
    """Measure, print, and write the results; exit code 1 where a target is missed and ``--strict`` was given."""
    options = _options()
    require_h2load()
    if not TorchServe().installed:
        sys.exit('TorchServe is not here: pip install -e ".[torchserve]", and Debian\'s openjdk-17-jre-headless')
    runs = Runs(seconds=options.seconds, in_flight=options.in_flight)
    taken, swept, duels = list[Taken](), list[Taken](), list[Duel]()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = prepare(Path(folder))
        try:
            for number in range(options.rounds):
                taken.extend(_round(runs, place, number, options))
            swept, duels = _sweep(runs, place, options) if options.duels else ([], [])
        except KeyboardInterrupt:
            console().print("interrupted: this is what was measured until then", style="yellow")
    sys.exit(int(not _report(taken, swept, duels, runs.missed, options) and options.strict))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="of each case in each round (default: 2)")
    parser.add_argument(
        "--warm-up", type=float, default=20, help="seconds, and on while the rate rises, for all that has Java"
    )
    parser.add_argument("--rounds", type=int, default=2, help="in which each server runs once (default: 2)")
    parser.add_argument("--in-flight", type=int, default=64, help="calls under way at once (default: 64)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of the sweep")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64], help="of the sweep")
    parser.add_argument(
        "--duels", type=int, default=4, help="of ours with the best of the sweep; 0: no sweep (default: 4)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    add_results_option(parser)
    return parser.parse_args()


def _round(runs: Runs, place: Workplace, number: int, options: argparse.Namespace) -> Iterator[Taken]:
    """Each contestant once."""
    console().print(f"round {number + 1} of {options.rounds}", style="dim")
    for rival in (PlainTorchServe(DEFAULTS), PlainOverGrpc(OVER_GRPC), TorchServe(BY_HAND), BehindTheDoor(DOOR)):
        yield from runs.of(rival, own_folder(place), options.warm_up)
    yield from runs.of(Driftwheel(IN_PROCESS), own_folder(place), WARM_UP_S)
    own = own_folder(place)
    try:
        swept = Swept(own.folder, place.bundle)
    except FAULTS as error:
        runs.miss(OURS, "all", error)
        return
    try:
        yield from runs.of(Chosen(OURS, swept, default_choice()), own, options.warm_up)
        yield from runs.of(ChosenJson(OURS_JSON, swept, default_choice()), own, WARM_UP_S)
    finally:
        swept.stop()


def _sweep(runs: Runs, place: Workplace, options: argparse.Namespace) -> tuple[list[Taken], list[Duel]]:
    """All choices on one TorchServe, so that Java is as warm for each: once to and once fro. Then ours beside the best."""
    console().print("sweep", style="dim")
    own = own_folder(place)
    try:
        swept = Swept(own.folder, place.bundle)
    except FAULTS as error:
        runs.miss("the sweep", "all", error)
        return [], []
    try:
        default, others = default_choice(), itertools.product(options.workers, options.batches)
        choices = dict.fromkeys([default, *(Choice(*one, default.delay_ms) for one in others)])
        rivals = [Chosen(OURS if one == default else name_of(one), swept, one) for one in choices]
        list(runs.of(rivals[0], own, options.warm_up))
        taken = [one for rival in (*rivals, *reversed(rivals)) for one in runs.of(rival, own, SETTLE_S)]
        return taken, [_duel(runs, case, rivals, taken, own, options.duels) for case in CASES]
    finally:
        swept.stop()


def _duel(runs: Runs, case: str, rivals: Sequence[Chosen], taken: Sequence[Taken], own: Workplace, duels: int) -> Duel:
    rates = {one.server: one.requests_per_s for one in median_of([one for one in taken if one.case == case])}
    ours = rivals[0]
    best = max(rivals, key=lambda rival: rates.get(rival.name, 0.0))
    if best is ours:
        return Duel(case, OURS, ())
    shares: list[float] = []
    for number in range(duels):
        pair = (ours, best) if number % 2 else (best, ours)
        found = {one.server: one.requests_per_s for rival in pair for one in runs.of(rival, own, SETTLE_S, [case])}
        if len(found) == len(pair):
            shares.append(found[ours.name] / found[best.name])
    return Duel(case, best.name, tuple(shares))


def default_choice() -> Choice:
    """What ``driftwheel torchserve up`` does unless told otherwise."""
    own = TorchServeSettings()
    return Choice(own.workers_per_version, own.batch_size, own.max_batch_delay_ms)


def name_of(choice: Choice) -> str:
    """How a choice of the sweep is called."""
    return f"{choice.workers} worker{'s' * (choice.workers > 1)}, batches of {choice.batch_size}"


def targets_of(medians: Sequence[Taken], duels: Sequence[Duel]) -> Iterator[Target]:
    """For each case, ours beside TorchServe's defaults, and beside what is tuned by hand. What could not be measured is no
    number, and meets no target.
    """
    for case in CASES:
        rates = {one.server: one.requests_per_s for one in medians if one.case == case}
        ours = rates.get(OURS, math.nan)
        for other, bound in ((DEFAULTS, TIMES_DEFAULTS), (BY_HAND, SHARE_OF_BEST)):
            yield Target(f"{case}: requests/s, of {other}", ours / rates.get(other, math.nan), ">=", bound)
        for duel in duels:
            if duel.case == case:
                name = f"{case}: requests/s, of the best of the sweep ({duel.best})"
                yield Target(name, duel.share, ">=", SHARE_OF_BEST)


def _report(
    taken: Sequence[Taken],
    swept: Sequence[Taken],
    duels: Sequence[Duel],
    missed: Sequence[Missed],
    options: argparse.Namespace,
) -> bool:
    """Print and write all that was measured. Whether every target was met."""
    medians, sweep = median_of(taken), median_of(swept)
    targets = list(targets_of(medians, duels))
    show(medians, subject=OURS)
    show_sweep(sweep)
    met = show_targets(targets)
    for one in missed:
        console().print(f"left out: {one.server}, {one.case}: {one.reason}", style="yellow")
    results = {"options": vars(options), "medians": [asdict(one) for one in medians]}
    results |= {"sweep": [asdict(one) for one in sweep], "duels": [asdict(one) for one in duels]}
    results |= {"targets": [asdict(one) for one in targets], "missed": [asdict(one) for one in missed]}
    path = write_json(options.results, "torchserve", results | {"rounds": [asdict(one) for one in taken]})
    whole = [one for one in medians if sum(other.server == one.server for other in medians) == len(CASES)]
    chart(whole, path.with_suffix(".png"), title="TorchServe's REST and gRPC, and ModelInfer, closed loop")
    console().print(f"written to {options.results}: {path.name}, {path.with_suffix('.png').name}")
    return met


def show_sweep(medians: Sequence[Taken]) -> None:
    """A row for each choice."""
    if not medians:
        return
    table = Table("our handler", title="The sweep: requests per second (p99 ms)")
    for case in CASES:
        table.add_column(case, justify="right")
    for name in dict.fromkeys(one.server for one in medians):
        mine = {one.case: f"{one.requests_per_s:,.0f} ({one.p99_ms:.0f})" for one in medians if one.server == name}
        cells = [mine.get(case, "-") for case in CASES]
        table.add_row(name, *cells, style="bold green" if name == OURS else None)
    console().print(table)


if __name__ == "__main__":
    main()
